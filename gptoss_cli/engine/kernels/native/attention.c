/* Attention over the cached keys and values, and the rotation of queries and keys before it.

   A piece of work is one kv head, a group of tokens, and a span of keys. The keys of one token, or of a few, are split
   into spans, so that many threads can share a long context; the softmaxes of the spans are then combined in their
   order (as in Flash-Decoding). The spans depend on the number of keys alone, and so the result does not depend on the
   number of threads. Many tokens are split into groups instead, and their keys are one span. */
#include <math.h>
#include <stdlib.h>

#include "gptoss.h"

enum { GROUP_ROWS = 64, SPAN_KEYS = 512 };

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

/* The first key that the query at `token` sees, and the first that it does not. */
static int64_t first_seen(const Attention *a, int64_t token) {
    int64_t seen = a->window ? a->position + token - a->window + 1 - a->first : 0;
    return seen > 0 ? seen : 0;
}

static int64_t end_seen(const Attention *a, int64_t token) { return a->position + token - a->first + 1; }

typedef struct {
    const AttentionKernels *kernels;
    const Attention *a;
    float *out;
    const float *queries;
    const uint8_t *keys, *values, *sinks;
    int64_t shared, padded; /* query heads of a kv head; head_dim as the kernels pad it */
    int64_t group_tokens, groups, span_keys, spans;
    uint8_t *memory, *scratch;
    int64_t scratch_bytes; /* of each thread */
    float *partial;        /* softmaxes of the spans [spans, tokens, query_heads, padded + 2], if there are several */
} Work;

/* What one thread computes in: a chunk of keys, transposed, and a group of rows in blocks. */
typedef struct {
    float *keys;
    QueryRows *blocks;
    int64_t count; /* blocks */
} Scratch;

static int64_t up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

static int64_t block_count(const Work *w, int64_t tokens) {
    return up(tokens * w->shared, ATTENTION_ROWS) / ATTENTION_ROWS;
}

static Scratch scratch_of(const Work *w, int64_t tokens, int thread) {
    int64_t blocks = block_count(w, w->group_tokens), d = w->a->head_dim;
    float *keys = (float *)(w->scratch + thread * w->scratch_bytes), *sums = keys + up(d, 2) * ATTENTION_KEYS;
    float *queries = sums + blocks * ATTENTION_ROWS * w->padded;
    Scratch scratch = {keys, (QueryRows *)(queries + blocks * ATTENTION_ROWS * up(d, 2)), block_count(w, tokens)};
    for (int64_t i = 0; i < scratch.count; i++) {
        scratch.blocks[i].sums = sums + i * ATTENTION_ROWS * w->padded;
        scratch.blocks[i].queries = queries + i * ATTENTION_ROWS * d;
    }
    return scratch;
}

static int64_t scratch_bytes(const Work *w) {
    int64_t blocks = block_count(w, w->group_tokens), d = up(w->a->head_dim, 2);
    int64_t cells = d * ATTENTION_KEYS + blocks * ATTENTION_ROWS * (w->padded + d);
    return up(cells * (int64_t)sizeof(float) + blocks * (int64_t)sizeof(QueryRows), LINE);
}

/* Row i of a group: of which token, and which query head. */
static int64_t token_of(const Work *w, int64_t first, int64_t i) { return first + i / w->shared; }

static int64_t head_of(const Work *w, int64_t kv_head, int64_t i) { return kv_head * w->shared + i % w->shared; }

/* `query` is NULL past the last row. The sink is a key whose value is 0, of the first span. */
static void start_row(const Work *w, QueryRows *block, int r, const float *query, float sink, int64_t token) {
    int64_t d = w->a->head_dim;
    float scale = 1.0f / sqrtf((float)d);
    block->largest[r] = sink;
    block->first[r] = query ? first_seen(w->a, token) : 0;
    block->end[r] = query ? end_seen(w->a, token) : 0;
    for (int64_t j = 0; j < d; j++) block->queries[j * ATTENTION_ROWS + r] = query ? query[j] * scale : 0;
    memset(block->sums + r * w->padded, 0, (size_t)w->padded * sizeof *block->sums);
}

static void start_rows(const Work *w, const Scratch *scratch, int64_t token, int64_t count, int64_t kv_head,
                       int64_t span) {
    for (int64_t i = 0; i < scratch->count * ATTENTION_ROWS; i++) {
        QueryRows *block = scratch->blocks + i / ATTENTION_ROWS;
        int r = (int)(i % ATTENTION_ROWS);
        int64_t row_token = token_of(w, token, i), head = head_of(w, kv_head, i);
        block->total[r] = span == 0;
        if (i >= count * w->shared) start_row(w, block, r, NULL, 0, 0);
        else start_row(w, block, r, w->queries + (row_token * w->a->query_heads + head) * w->a->head_dim,
                       load_bf16(w->sinks, head), row_token);
    }
}

static int32_t clipped(int64_t key, int64_t count) { return (int32_t)(key < 0 ? 0 : key > count ? count : key); }

/* Which of the `keys` keys from `start` on each row of a block sees. */
static void see_keys(QueryRows *block, int64_t start, int64_t keys) {
    for (int r = 0; r < ATTENTION_ROWS; r++) {
        block->from[r] = clipped(block->first[r] - start, keys);
        block->to[r] = clipped(block->end[r] - start, keys);
    }
}

static void attend_span(const Work *w, const Scratch *scratch, int64_t kv_head, int64_t first, int64_t end) {
    int64_t row_bytes = w->a->head_dim * (w->a->is_bf16 ? 2 : 4), stride = w->a->kv_heads * row_bytes;
    /* The next piece most likely goes to the same thread: the same keys of the next head, or the next keys. */
    int64_t next_head = kv_head + 1 < w->a->kv_heads, next_piece = next_head || end < w->a->keys;
    int64_t after = next_head ? first * stride + (kv_head + 1) * row_bytes : end * stride;
    for (int64_t start = first; start < end; start += ATTENTION_KEYS) {
        int64_t keys = end - start < ATTENTION_KEYS ? end - start : ATTENTION_KEYS;
        int64_t at = start * stride + kv_head * row_bytes;
        int64_t ahead = start + keys < end ? ATTENTION_KEYS * stride : next_piece ? after - at : 0;
        KeyChunk chunk = {w->keys + at, w->values + at, stride, keys, w->a->head_dim, ahead, w->a->is_bf16};
        w->kernels->transpose_keys(scratch->keys, &chunk);
        for (int64_t i = 0; i < scratch->count; i++) {
            see_keys(scratch->blocks + i, start, keys);
            if (!keys_seen_by_any(scratch->blocks + i).end) continue;
            w->kernels->attend_chunk(scratch->blocks + i, scratch->keys, &chunk);
            chunk.ahead = 0; /* prefetched by the first block */
        }
    }
}

/* Where the softmax of a span is kept: its sums, the largest score, and the total. */
static float *partial_of(const Work *w, int64_t span, int64_t row) {
    return w->partial + (span * w->a->tokens * w->a->query_heads + row) * (w->padded + 2);
}

static void finish_rows(const Work *w, const Scratch *scratch, int64_t token, int64_t count, int64_t kv_head,
                        int64_t span) {
    int64_t d = w->a->head_dim;
    for (int64_t i = 0; i < count * w->shared; i++) {
        const QueryRows *block = scratch->blocks + i / ATTENTION_ROWS;
        int64_t r = i % ATTENTION_ROWS, row = token_of(w, token, i) * w->a->query_heads + head_of(w, kv_head, i);
        const float *sums = block->sums + r * w->padded;
        if (w->spans == 1) {
            float inverse = 1 / block->total[r];
            for (int64_t j = 0; j < d; j++) w->out[row * d + j] = sums[j] * inverse;
        } else {
            float *to = partial_of(w, span, row);
            memcpy(to, sums, (size_t)w->padded * sizeof *to);
            to[w->padded] = block->largest[r], to[w->padded + 1] = block->total[r];
        }
    }
}

/* Pieces are numbered kv head first: what lies side by side in the cache is read one after the other. */
static void attend_piece(void *context, int64_t piece, int thread) {
    const Work *w = context;
    int64_t kv_head = piece % w->a->kv_heads, span = piece / w->a->kv_heads % w->spans;
    int64_t token = piece / w->a->kv_heads / w->spans * w->group_tokens, left = w->a->tokens - token;
    int64_t count = left < w->group_tokens ? left : w->group_tokens;
    int64_t start = first_seen(w->a, token) + span * w->span_keys, end = end_seen(w->a, token + count - 1);
    Scratch scratch = scratch_of(w, count, thread);
    start_rows(w, &scratch, token, count, kv_head, span);
    if (w->spans > 1 && end - start > w->span_keys) end = start + w->span_keys;
    attend_span(w, &scratch, kv_head, start, end);
    finish_rows(w, &scratch, token, count, kv_head, span);
}

/* One row out of the softmaxes of its spans. */
static void combine_piece(void *context, int64_t row, int thread) {
    const Work *w = context;
    int64_t d = w->a->head_dim;
    float *out = w->out + row * d, most = -INFINITY, total = 0;
    (void)thread;
    for (int64_t span = 0; span < w->spans; span++) {
        float largest = partial_of(w, span, row)[w->padded];
        most = largest > most ? largest : most;
    }
    memset(out, 0, (size_t)d * sizeof *out);
    for (int64_t span = 0; span < w->spans; span++) {
        const float *from = partial_of(w, span, row);
        float weight = expf(from[w->padded] - most);
        total += weight * from[w->padded + 1];
        for (int64_t j = 0; j < d; j++) out[j] += weight * from[j];
    }
    float inverse = 1 / total;
    for (int64_t j = 0; j < d; j++) out[j] *= inverse;
}

static int reserve(Work *w, int threads) {
    int64_t partials = w->spans > 1 ? w->spans * w->a->tokens * w->a->query_heads * (w->padded + 2) : 0;
    w->scratch_bytes = scratch_bytes(w);
    w->memory = malloc((size_t)(threads * w->scratch_bytes + partials * (int64_t)sizeof *w->partial + LINE));
    if (!w->memory) return 0;
    w->scratch = w->memory + LINE - (uintptr_t)w->memory % LINE;
    w->partial = (float *)(w->scratch + threads * w->scratch_bytes);
    return 1;
}

/* out [tokens, query_heads, head_dim] from rotated queries of that shape, keys and values [keys, kv_heads, head_dim]
   and sinks [query_heads] bf16. head_dim is even. Returns 0 if there is no memory. */
EXPORT int gptoss_attend(float *out, const float *queries, const uint8_t *keys, const uint8_t *values,
                         const uint8_t *sinks, const Attention *a, int threads) {
    int64_t shared = a->query_heads / a->kv_heads, seen = end_seen(a, a->tokens - 1) - first_seen(a, 0);
    Work w = {gptoss_kernels()->attention, a, out, queries, keys, values, sinks, shared, padded_dims(a->head_dim),
              GROUP_ROWS / shared > 1 ? GROUP_ROWS / shared : 1, 1, 0, 1, NULL, NULL, 0, NULL};
    w.groups = up(a->tokens, w.group_tokens) / w.group_tokens;
    if (w.groups == 1) w.spans = seen > SPAN_KEYS ? up(seen, SPAN_KEYS) / SPAN_KEYS : 1;
    w.span_keys = up(up(seen, w.spans) / w.spans, ATTENTION_KEYS);
    int64_t key_bytes = 2 * a->kv_heads * a->head_dim * (a->is_bf16 ? 2 : 4);
    threads = gptoss_worthwhile(seen * key_bytes * a->tokens, threads);
    if (!reserve(&w, threads)) return 0;
    gptoss_parallel(attend_piece, &w, a->kv_heads * w.groups * w.spans, threads);
    if (w.spans > 1) {
        int64_t partial_bytes = w.spans * a->tokens * a->query_heads * w.padded * (int64_t)sizeof *w.partial;
        gptoss_parallel(combine_piece, &w, a->tokens * a->query_heads, gptoss_worthwhile(partial_bytes, threads));
    }
    free(w.memory);
    return 1;
}
