/* Attention over the cached keys and values, and the rotation of queries and keys before it.

   A part of the work is some kv heads, a group of tokens, and a span of keys. Over many keys the parts of one token,
   or of a few, are spans with all kv heads: many threads share the keys, and each reads memory in the order of
   addresses. The softmaxes of the spans are then combined in their order (as in Flash-Decoding). Otherwise the parts
   are groups of tokens with one kv head, and all their keys are one span. Which it is depends on the numbers of tokens
   and keys alone, and so the result does not depend on the number of threads. */
#include <math.h>
#include <stdlib.h>

#include "gptoss.h"

/* From MANY_KEYS keys on they are split into spans: SPANS of them, but not too short or too long. */
enum { GROUP_ROWS = 64, MANY_KEYS = 2048, SPANS = 32, SHORTEST_SPAN = 256, LONGEST_SPAN = 1024 };

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
    int64_t part_heads, group_tokens, groups, span_keys, spans;
    uint8_t *memory, *scratch;
    int64_t scratch_bytes; /* of each thread */
    float *partial;        /* softmaxes of the spans [spans, tokens, query_heads, padded + 2], if there are several */
} Work;

/* kv heads from kv_head on, tokens from `token` on, and the keys first to end - 1. */
typedef struct {
    int64_t kv_head, token, tokens, span, first, end;
} Part;

/* The memory of one thread: a chunk of keys, transposed, and the rows of a part, `count` blocks for each kv head. */
typedef struct {
    float *keys;
    QueryRows *blocks;
    int64_t count;
} Scratch;

static int64_t up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

static int64_t row_bytes(const Work *w) { return w->a->head_dim * (w->a->is_bf16 ? 2 : 4); }

static int64_t block_count(const Work *w, int64_t tokens) {
    return up(tokens * w->shared, ATTENTION_ROWS) / ATTENTION_ROWS;
}

static Scratch scratch_of(const Work *w, int64_t tokens, int thread) {
    int64_t most = w->part_heads * block_count(w, w->group_tokens), d = w->a->head_dim;
    float *keys = (float *)(w->scratch + thread * w->scratch_bytes), *sums = keys + d * ATTENTION_KEYS;
    float *queries = sums + most * ATTENTION_ROWS * w->padded;
    Scratch scratch = {keys, (QueryRows *)(queries + most * ATTENTION_ROWS * d), block_count(w, tokens)};
    for (int64_t i = 0; i < w->part_heads * scratch.count; i++) {
        scratch.blocks[i].sums = sums + i * ATTENTION_ROWS * w->padded;
        scratch.blocks[i].queries = queries + i * ATTENTION_ROWS * d;
    }
    return scratch;
}

static int64_t scratch_bytes(const Work *w) {
    int64_t blocks = w->part_heads * block_count(w, w->group_tokens), d = w->a->head_dim;
    int64_t cells = d * ATTENTION_KEYS + blocks * ATTENTION_ROWS * (w->padded + d);
    return up(cells * (int64_t)sizeof(float) + blocks * (int64_t)sizeof(QueryRows), LINE);
}

/* Row i of a kv head's rows: of which token, and which query head. */
static int64_t token_of(const Work *w, const Part *part, int64_t i) { return part->token + i / w->shared; }

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

static void start_rows(const Work *w, const Part *part, QueryRows *blocks, int64_t count, int64_t kv_head) {
    for (int64_t i = 0; i < count * ATTENTION_ROWS; i++) {
        QueryRows *block = blocks + i / ATTENTION_ROWS;
        int r = (int)(i % ATTENTION_ROWS);
        int64_t token = token_of(w, part, i), head = head_of(w, kv_head, i);
        block->total[r] = part->span == 0;
        if (i >= part->tokens * w->shared) start_row(w, block, r, NULL, 0, 0);
        else start_row(w, block, r, w->queries + (token * w->a->query_heads + head) * w->a->head_dim,
                       load_bf16(w->sinks, head), token);
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

/* A chunk of a part with what to prefetch meanwhile. With one kv head that is its next keys, and in the end the first
   ones of the next head, to which the same thread most likely turns. With all of them each head has its share of the
   next keys of all heads, as they lie in memory: no other order is as fast. */
static KeyChunk chunk_of(const Work *w, const Part *part, int64_t kv_head, int64_t start) {
    int64_t head_bytes = row_bytes(w), stride = w->a->kv_heads * head_bytes, at = start * stride + kv_head * head_bytes;
    int64_t keys = part->end - start < ATTENTION_KEYS ? part->end - start : ATTENTION_KEYS;
    int64_t next = start + keys, ahead = -1;
    if (w->spans > 1) {
        if (next < w->a->keys) ahead = next * stride + kv_head * ATTENTION_KEYS * head_bytes;
    } else if (next < part->end) {
        ahead = next * stride + kv_head * head_bytes;
    } else if (kv_head + 1 < w->a->kv_heads) {
        ahead = part->first * stride + (kv_head + 1) * head_bytes;
    }
    KeyChunk chunk = {.keys = w->keys + at, .values = w->values + at, .stride = stride, .count = keys,
                      .head_dim = w->a->head_dim, .is_bf16 = w->a->is_bf16, .ahead_is_contiguous = w->spans > 1};
    if (ahead >= 0) chunk.ahead_keys = w->keys + ahead, chunk.ahead_values = w->values + ahead;
    return chunk;
}

static void attend_head(const Work *w, const Part *part, const Scratch *scratch, int64_t head, int64_t start) {
    KeyChunk chunk = chunk_of(w, part, part->kv_head + head, start);
    w->kernels->transpose_keys(scratch->keys, &chunk);
    for (int64_t i = 0; i < scratch->count; i++) {
        QueryRows *block = scratch->blocks + head * scratch->count + i;
        see_keys(block, start, chunk.count);
        if (!keys_seen_by_any(block).end) continue;
        w->kernels->attend_chunk(block, scratch->keys, &chunk);
        chunk.ahead_keys = chunk.ahead_values = NULL; /* prefetched by the first block */
    }
}

/* Where the softmax of a span is kept: its sums, the largest score, and the total. */
static float *partial_of(const Work *w, int64_t span, int64_t row) {
    return w->partial + (span * w->a->tokens * w->a->query_heads + row) * (w->padded + 2);
}

static void finish_rows(const Work *w, const Part *part, const QueryRows *blocks, int64_t kv_head) {
    int64_t d = w->a->head_dim;
    for (int64_t i = 0; i < part->tokens * w->shared; i++) {
        const QueryRows *block = blocks + i / ATTENTION_ROWS;
        int64_t r = i % ATTENTION_ROWS, row = token_of(w, part, i) * w->a->query_heads + head_of(w, kv_head, i);
        const float *sums = block->sums + r * w->padded;
        if (w->spans == 1) {
            float inverse = 1 / block->total[r];
            for (int64_t j = 0; j < d; j++) w->out[row * d + j] = sums[j] * inverse;
        } else {
            float *to = partial_of(w, part->span, row);
            memcpy(to, sums, (size_t)w->padded * sizeof *to);
            to[w->padded] = block->largest[r], to[w->padded + 1] = block->total[r];
        }
    }
}

/* Parts are numbered kv head first: what lies side by side in the cache is read one after the other. */
static Part part_of(const Work *w, int64_t piece) {
    int64_t divisions = w->a->kv_heads / w->part_heads, rest = piece / divisions;
    Part part = {piece % divisions * w->part_heads, rest / w->spans * w->group_tokens, 0, rest % w->spans, 0, 0};
    int64_t left = w->a->tokens - part.token;
    part.tokens = left < w->group_tokens ? left : w->group_tokens;
    part.first = first_seen(w->a, part.token) + part.span * w->span_keys;
    part.end = end_seen(w->a, part.token + part.tokens - 1);
    if (w->spans > 1 && part.end - part.first > w->span_keys) part.end = part.first + w->span_keys;
    return part;
}

static void attend_piece(void *context, int64_t piece, int thread) {
    const Work *w = context;
    Part part = part_of(w, piece);
    Scratch scratch = scratch_of(w, part.tokens, thread);
    for (int64_t head = 0; head < w->part_heads; head++)
        start_rows(w, &part, scratch.blocks + head * scratch.count, scratch.count, part.kv_head + head);
    for (int64_t start = part.first; start < part.end; start += ATTENTION_KEYS)
        for (int64_t head = 0; head < w->part_heads; head++) attend_head(w, &part, &scratch, head, start);
    for (int64_t head = 0; head < w->part_heads; head++)
        finish_rows(w, &part, scratch.blocks + head * scratch.count, part.kv_head + head);
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

static void split_keys(Work *w, int64_t seen) {
    int64_t span = up(seen / SPANS, ATTENTION_KEYS);
    w->span_keys = span < SHORTEST_SPAN ? SHORTEST_SPAN : span > LONGEST_SPAN ? LONGEST_SPAN : span;
    w->spans = up(seen, w->span_keys) / w->span_keys;
    w->part_heads = w->a->kv_heads;
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
    Work w = {.kernels = gptoss_kernels()->attention, .a = a, .out = out, .queries = queries, .keys = keys,
              .values = values, .sinks = sinks, .shared = shared, .padded = padded_dims(a->head_dim), .part_heads = 1,
              .group_tokens = GROUP_ROWS / shared > 1 ? GROUP_ROWS / shared : 1, .spans = 1};
    w.groups = up(a->tokens, w.group_tokens) / w.group_tokens;
    if (w.groups == 1 && seen >= MANY_KEYS) split_keys(&w, seen);
    int64_t key_bytes = 2 * a->kv_heads * row_bytes(&w);
    threads = gptoss_worthwhile(seen * key_bytes * a->tokens, threads);
    if (!reserve(&w, threads)) return 0;
    gptoss_parallel(attend_piece, &w, a->kv_heads / w.part_heads * w.groups * w.spans, threads);
    if (w.spans > 1) {
        int64_t partial_bytes = w.spans * a->tokens * a->query_heads * w.padded * (int64_t)sizeof *w.partial;
        gptoss_parallel(combine_piece, &w, a->tokens * a->query_heads, gptoss_worthwhile(partial_bytes, threads));
    }
    free(w.memory);
    return 1;
}
