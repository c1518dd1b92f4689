/* Attention over what is cached, a few keys at a time; and the rotation of queries and keys before it. */
#include <math.h>
#include <stdlib.h>

#include "gptoss.h"

enum { CHUNK_KEYS = 64, CHUNK_TOKENS = 8 };

/* out [tokens, heads, d] = x turned by cos and sin [tokens, d / 2]: i of the first half with i of the second. */
EXPORT void gptoss_rotate(float *out, const float *x, const float *cosines, const float *sines, int64_t tokens,
                          int64_t heads, int64_t d) {
    int64_t half = d / 2;
    for (int64_t row = 0; row < tokens * heads; row++) {
        const float *c = cosines + row / heads * half, *s = sines + row / heads * half;
        const float *a = x + row * d, *b = a + half;
        for (int64_t i = 0; i < half; i++) {
            out[row * d + i] = a[i] * c[i] - b[i] * s[i];
            out[row * d + half + i] = b[i] * c[i] + a[i] * s[i];
        }
    }
}

/* Keys or values of one head, from index `start` on, as float32 [count, padded]. */
static void widen(float *out, const uint8_t *from, const Attention *a, int64_t head, int64_t start, int64_t count,
                  int64_t padded) {
    int64_t size = a->is_bf16 ? 2 : 4;
    for (int64_t i = 0; i < count; i++) {
        const uint8_t *row = from + ((start + i) * a->kv_heads + head) * a->head_dim * size;
        if (!a->is_bf16) {
            memcpy(out + i * padded, row, (size_t)a->head_dim * sizeof *out);
        } else {
            for (int64_t j = 0; j < a->head_dim; j++) out[i * padded + j] = load_bf16(row, j);
        }
        memset(out + i * padded + a->head_dim, 0, (size_t)(padded - a->head_dim) * sizeof *out);
    }
}

/* The first key that the query at `token` sees, and the first that it does not. */
static int64_t first_seen(const Attention *a, int64_t token) {
    int64_t seen = a->window ? a->position + token - a->window + 1 - a->first : 0;
    return seen > 0 ? seen : 0;
}

static int64_t end_seen(const Attention *a, int64_t token) { return a->position + token - a->first + 1; }

/* Softmax under way: the largest score so far, the sum of all exponentials, and the sum of values weighted by them. */
typedef struct {
    float most, total;
    float *sums;
} Running;

static void attend_chunk(const IsaKernels *use, Running *run, const float *q, const float *keys, const float *values,
                         int64_t count, int64_t padded) {
    float probabilities[CHUNK_KEYS];
    float most = use->scores(probabilities, q, keys, count, padded);
    for (int64_t i = count; i % 8; i++) probabilities[i] = -INFINITY;
    if (most > run->most) {
        float shrink = expf(run->most - most);
        run->most = most;
        run->total *= shrink;
        for (int64_t j = 0; j < padded; j++) run->sums[j] *= shrink;
    }
    run->total += use->exponentials(probabilities, run->most, (count + 7) / 8 * 8);
    use->accumulate(run->sums, probabilities, values, count, padded);
}

/* Rows of floats that attend_some needs as scratch: keys, values, queries, sums, and Running in the place of one more. */
static int64_t scratch_rows(int64_t shared) { return 2 * CHUNK_KEYS + 3 * CHUNK_TOKENS * shared; }

/* `count` queries from `token` on, of all heads that share a kv head. */
static void attend_some(const IsaKernels *use, float *out, const float *queries, const uint8_t *keys,
                        const uint8_t *values, const uint8_t *sinks, const Attention *a, int64_t head, int64_t token,
                        int64_t count, float *scratch) {
    int64_t d = a->head_dim, padded = (d + 7) / 8 * 8, shared = a->query_heads / a->kv_heads;
    float *k = scratch, *v = k + CHUNK_KEYS * padded, *q = v + CHUNK_KEYS * padded;
    Running *runs = (Running *)(q + 2 * CHUNK_TOKENS * shared * padded); /* 16 bytes: padded is at least 8 */
    float scale = 1.0f / sqrtf((float)d);
    for (int64_t i = 0; i < count * shared; i++) {
        int64_t query_head = head * shared + i % shared;
        const float *from = queries + ((token + i / shared) * a->query_heads + query_head) * d;
        float *sums = q + (count * shared + i) * padded;
        memset(sums, 0, (size_t)padded * sizeof *sums);
        memset(q + i * padded, 0, (size_t)padded * sizeof *q);
        for (int64_t j = 0; j < d; j++) q[i * padded + j] = from[j] * scale;
        /* The sink: a key of its own whose value is 0. */
        runs[i] = (Running){load_bf16(sinks, query_head), 1, sums};
    }
    int64_t end = end_seen(a, token + count - 1);
    for (int64_t start = first_seen(a, token); start < end; start += CHUNK_KEYS) {
        int64_t most = end - start < CHUNK_KEYS ? end - start : CHUNK_KEYS;
        widen(k, keys, a, head, start, most, padded);
        widen(v, values, a, head, start, most, padded);
        for (int64_t i = 0; i < count * shared; i++) {
            int64_t from = first_seen(a, token + i / shared) - start, to = end_seen(a, token + i / shared) - start;
            from = from > 0 ? from : 0, to = to < most ? to : most;
            if (from < to)
                attend_chunk(use, runs + i, q + i * padded, k + from * padded, v + from * padded, to - from, padded);
        }
    }
    for (int64_t i = 0; i < count * shared; i++) {
        float *to = out + ((token + i / shared) * a->query_heads + head * shared + i % shared) * d;
        for (int64_t j = 0; j < d; j++) to[j] = runs[i].sums[j] / runs[i].total;
    }
}

typedef struct {
    const IsaKernels *use;
    float *out, *scratch;
    const float *queries;
    const uint8_t *keys, *values, *sinks;
    const Attention *shape;
    int64_t scratch_cells; /* of each thread */
} AttentionWork;

/* CHUNK_TOKENS queries of the heads that share one kv head. */
static void attend_piece(void *context, int64_t piece, int thread) {
    const AttentionWork *w = context;
    const Attention *a = w->shape;
    int64_t token = piece / a->kv_heads * CHUNK_TOKENS, rest = a->tokens - token;
    attend_some(w->use, w->out, w->queries, w->keys, w->values, w->sinks, a, piece % a->kv_heads, token,
                rest < CHUNK_TOKENS ? rest : CHUNK_TOKENS, w->scratch + thread * w->scratch_cells);
}

/* out [tokens, query_heads, head_dim] from rotated queries of that shape, keys and values [keys, kv_heads, head_dim] and
   sinks [query_heads] bf16. Returns 0 if there is no memory. */
EXPORT int gptoss_attend(float *out, const float *queries, const uint8_t *keys, const uint8_t *values,
                         const uint8_t *sinks, const Attention *a, int threads) {
    int64_t parts = (a->tokens + CHUNK_TOKENS - 1) / CHUNK_TOKENS;
    int64_t shared = a->query_heads / a->kv_heads, padded = (a->head_dim + 7) / 8 * 8;
    int64_t cells = scratch_rows(shared) * padded;
    float *scratch = malloc((size_t)(threads * cells) * sizeof *scratch);
    if (!scratch) return 0;
    AttentionWork work = {gptoss_kernels(), out, scratch, queries, keys, values, sinks, a, cells};
    gptoss_parallel(attend_piece, &work, a->kv_heads * parts, threads);
    free(scratch);
    return 1;
}
