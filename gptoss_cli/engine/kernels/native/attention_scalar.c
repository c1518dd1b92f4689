/* The attention kernels in plain C: for machines without better ones, and the oracle of those. The loops over the
   lanes of a chunk have a fixed length, so that compilers vectorize them. */
#include <math.h>

#include "gptoss.h"

enum { LANES = 16 };

static float element(const uint8_t *row, int64_t i, int is_bf16) {
    float value;
    if (is_bf16) return load_bf16(row, i);
    memcpy(&value, row + i * (int64_t)sizeof value, sizeof value);
    return value;
}

static void transpose_keys(float *to, const KeyChunk *chunk) {
    for (int64_t i = 0; i < chunk->count; i++)
        for (int64_t j = 0; j < chunk->head_dim; j++)
            to[j * ATTENTION_KEYS + i] = element(chunk->keys + i * chunk->stride, j, chunk->is_bf16);
}

/* Scores of LANES keys and one row. */
static void multiply_keys(float *scores, const float *queries, const float *keys, int64_t head_dim) {
    float sums[LANES] = {0};
    for (int64_t j = 0; j < head_dim; j++)
        for (int64_t i = 0; i < LANES; i++) sums[i] += queries[j * ATTENTION_ROWS] * keys[j * ATTENTION_KEYS + i];
    memcpy(scores, sums, sizeof sums);
}

/* Scores -> exp(score - largest) of the keys that row r sees. Returns the factor for its earlier sums. */
static float softmax(QueryRows *rows, float *scores, int r) {
    float before = rows->largest[r], most = before;
    for (int64_t i = rows->from[r]; i < rows->to[r]; i++) most = scores[i] > most ? scores[i] : most;
    float rescale = most == before ? 1 : expf(before - most), total = 0;
    for (int64_t i = rows->from[r]; i < rows->to[r]; i++) total += scores[i] = expf(scores[i] - most);
    rows->largest[r] = most;
    rows->total[r] = rows->total[r] * rescale + total;
    return rescale;
}

/* sums = sums * rescale + probabilities . values, ATTENTION_DIMS of them. */
static void add_values(float *sums, const float *probabilities, const KeyChunk *chunk, int64_t dim, SeenKeys seen,
                       float rescale) {
    float parts[ATTENTION_DIMS] = {0};
    int64_t left = chunk->head_dim - dim, dims = left < ATTENTION_DIMS ? left : ATTENTION_DIMS;
    for (int64_t i = seen.start; i < seen.end; i++)
        for (int64_t j = 0; j < dims; j++)
            parts[j] += probabilities[i] * element(chunk->values + i * chunk->stride, dim + j, chunk->is_bf16);
    for (int64_t j = 0; j < ATTENTION_DIMS; j++) sums[j] = sums[j] * rescale + parts[j];
}

static void attend_chunk(QueryRows *rows, const float *keys, const KeyChunk *chunk) {
    for (int r = 0; r < ATTENTION_ROWS; r++) {
        if (rows->from[r] >= rows->to[r]) continue;
        float scores[ATTENTION_KEYS];
        SeenKeys seen = {rows->from[r], rows->to[r]};
        for (int64_t i = seen.start / LANES * LANES; i < seen.end; i += LANES)
            multiply_keys(scores + i, rows->queries + r, keys + i, chunk->head_dim);
        float rescale = softmax(rows, scores, r), *sums = rows->sums + r * padded_dims(chunk->head_dim);
        for (int64_t dim = 0; dim < chunk->head_dim; dim += ATTENTION_DIMS)
            add_values(sums + dim, scores, chunk, dim, seen, rescale);
    }
}

const AttentionKernels gptoss_scalar_attention = {transpose_keys, attend_chunk};
