/* Attention: what the driver shares with the kernels of each set of instructions. Included by gptoss.h.

   A row is one query head of one token. All rows that share a kv head are multiplied by each key that is loaded. */
#ifndef ATTENTION_H
#define ATTENTION_H

#include <stdint.h>

/* Keys are taken in chunks, rows in blocks, and sums are padded to a multiple of ATTENTION_DIMS. */
enum { ATTENTION_KEYS = 64, ATTENTION_ROWS = 8, ATTENTION_DIMS = 32 };

/* A block of rows and its online softmax (arXiv:1805.02867) so far. Row r sees the keys first[r] to end[r] - 1 of all,
   and from[r] to to[r] - 1 of the current chunk; a row past the last one sees none. */
typedef struct {
    float *queries; /* times 1 / sqrt(head_dim) [head_dim, ATTENTION_ROWS] */
    float *sums;    /* values times probabilities [ATTENTION_ROWS, padded] */
    float largest[ATTENTION_ROWS], total[ATTENTION_ROWS];
    int64_t first[ATTENTION_ROWS], end[ATTENTION_ROWS];
    int32_t from[ATTENTION_ROWS], to[ATTENTION_ROWS];
} QueryRows;

/* Up to ATTENTION_KEYS keys of one kv head, `stride` bytes apart, and their values. Meanwhile the kernels prefetch as
   many bytes from `ahead_keys` and `ahead_values` on, unless they are NULL: contiguous ones, or `stride` bytes apart
   too. */
typedef struct {
    const uint8_t *keys, *values, *ahead_keys, *ahead_values;
    int64_t stride, count, head_dim;
    int32_t is_bf16, ahead_is_contiguous;
} KeyChunk;

typedef struct {
    /* to [head_dim, ATTENTION_KEYS]: a lane is a key. The last lanes of a vector that is not full are undefined. */
    void (*transpose_keys)(float *to, const KeyChunk *chunk);
    /* Add a chunk, whose keys transpose_keys made, to the softmax of a block. */
    void (*attend_chunk)(QueryRows *rows, const float *keys, const KeyChunk *chunk);
} AttentionKernels;

extern const AttentionKernels gptoss_scalar_attention;

static inline int64_t padded_dims(int64_t head_dim) {
    return (head_dim + ATTENTION_DIMS - 1) / ATTENTION_DIMS * ATTENTION_DIMS;
}

/* The keys of a chunk that any row of a block sees: `end` is 0 if there is none. */
typedef struct {
    int64_t start, end;
} SeenKeys;

static inline SeenKeys keys_seen_by_any(const QueryRows *rows) {
    SeenKeys seen = {ATTENTION_KEYS, 0};
    for (int r = 0; r < ATTENTION_ROWS; r++) {
        if (rows->from[r] >= rows->to[r]) continue;
        if (rows->from[r] < seen.start) seen.start = rows->from[r];
        if (rows->to[r] > seen.end) seen.end = rows->to[r];
    }
    return seen;
}

#endif
