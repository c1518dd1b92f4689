/* Runs the attention kernels on arrays that end where memory ends, and compares them with the scalar ones. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "attention_check.h"

#if defined(__unix__) || defined(__APPLE__)
#include <sys/mman.h>
#include <unistd.h>
#endif

static uint32_t state = 7;
static int failures;

static uint32_t next_random(void) { return state = state * 1664525u + 1013904223u, state >> 8; }

static float random_float(void) { return (float)(next_random() & 0xFFFF) / 32768.0f - 1.0f; }

/* An array after which nothing can be read, where the system can do that. */
typedef struct {
    uint8_t *mapping, *at;
    size_t mapped;
} Guarded;

static Guarded guarded(size_t bytes) {
    Guarded made = {NULL, NULL, 0};
#if defined(__unix__) || defined(__APPLE__)
    size_t page = (size_t)sysconf(_SC_PAGESIZE), size = (bytes + page - 1) / page * page;
    made.mapped = size + page;
    made.mapping = mmap(NULL, made.mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (made.mapping == MAP_FAILED || mprotect(made.mapping + size, page, PROT_NONE)) abort();
    made.at = made.mapping + size - bytes;
#else
    made.at = made.mapping = malloc(bytes);
#endif
    return made;
}

static void release(Guarded array) {
#if defined(__unix__) || defined(__APPLE__)
    munmap(array.mapping, array.mapped);
#else
    free(array.mapping);
#endif
}

/* `keys` rows of `kv_heads` heads of random numbers. */
static Guarded random_cache(int64_t keys, int64_t kv_heads, int64_t head_dim, int is_bf16) {
    int64_t cells = keys * kv_heads * head_dim, size = is_bf16 ? 2 : 4;
    Guarded array = guarded((size_t)(cells * size));
    for (int64_t i = 0; i < cells; i++) {
        float value = random_float();
        uint16_t bits = bf16_of(value);
        memcpy(array.at + i * size, is_bf16 ? (void *)&bits : (void *)&value, (size_t)size);
    }
    return array;
}

/* A block of rows, of which some see a part of the chunk, some all of it, and one nothing. */
static QueryRows random_rows(int64_t head_dim, int64_t count) {
    int64_t padded = padded_dims(head_dim);
    QueryRows rows = {malloc((size_t)(head_dim * ATTENTION_ROWS) * sizeof(float)),
                      malloc((size_t)(padded * ATTENTION_ROWS) * sizeof(float)), {0}, {0}, {0}, {0}, {0}, {0}};
    for (int64_t i = 0; i < head_dim * ATTENTION_ROWS; i++) rows.queries[i] = random_float();
    for (int64_t i = 0; i < padded * ATTENTION_ROWS; i++) rows.sums[i] = random_float();
    for (int r = 0; r < ATTENTION_ROWS; r++) {
        int is_part = r > 4;
        rows.from[r] = is_part ? (int32_t)(next_random() % (uint32_t)count) : 0;
        rows.to[r] = (int32_t)count - (is_part ? (int32_t)(next_random() % (uint32_t)(count - rows.from[r])) : 0);
        rows.largest[r] = r == 3 ? -INFINITY : 4 * random_float();
        rows.total[r] = r == 3 ? 0 : 1;
    }
    rows.from[2] = rows.to[2] = 0;
    return rows;
}

static QueryRows copied(const QueryRows *rows, int64_t head_dim) {
    QueryRows copy = *rows;
    size_t bytes = (size_t)(padded_dims(head_dim) * ATTENTION_ROWS) * sizeof(float);
    copy.sums = memcpy(malloc(bytes), rows->sums, bytes);
    return copy;
}

static void compare(const char *what, const KeyChunk *chunk, float got, float expected, float size) {
    if (got == expected || fabsf(got - expected) <= 3e-6f * size) return;
    printf("attention, %s with head_dim %d and %d keys: %g, not %g\n", what, (int)chunk->head_dim, (int)chunk->count,
           (double)got, (double)expected);
    failures++;
}

static void check_chunk(const AttentionKernels *kernels, const KeyChunk *chunk) {
    int64_t cells = chunk->head_dim * ATTENTION_KEYS, padded = padded_dims(chunk->head_dim);
    QueryRows rows[2] = {random_rows(chunk->head_dim, chunk->count), {0}};
    rows[1] = copied(rows, chunk->head_dim);
    const AttentionKernels *both[2] = {kernels, &gptoss_scalar_attention};
    float *keys[2];
    for (int i = 0; i < 2; i++) {
        keys[i] = malloc((size_t)cells * sizeof(float));
        both[i]->transpose_keys(keys[i], chunk);
        both[i]->attend_chunk(rows + i, keys[i], chunk);
    }
    for (int64_t i = 0; i < cells; i++)
        if (i % ATTENTION_KEYS < chunk->count) compare("a transposed key", chunk, keys[0][i], keys[1][i], 0);
    for (int r = 0; r < ATTENTION_ROWS; r++) {
        compare("the largest score", chunk, rows[0].largest[r], rows[1].largest[r], 8);
        compare("the total", chunk, rows[0].total[r], rows[1].total[r], rows[1].total[r] + 1);
        for (int64_t j = 0; j < chunk->head_dim; j++)
            compare("a sum", chunk, rows[0].sums[r * padded + j], rows[1].sums[r * padded + j], rows[1].total[r] + 1);
    }
    free(keys[0]), free(keys[1]), free(rows[0].queries), free(rows[0].sums), free(rows[1].sums);
}

static void check_last_head(const AttentionKernels *kernels, int64_t count, int64_t head_dim, int is_bf16) {
    enum { KV_HEADS = 3 };
    int64_t size = is_bf16 ? 2 : 4, last = (KV_HEADS - 1) * head_dim * size;
    Guarded keys = random_cache(count, KV_HEADS, head_dim, is_bf16);
    Guarded values = random_cache(count, KV_HEADS, head_dim, is_bf16);
    int64_t stride = KV_HEADS * head_dim * size;
    KeyChunk chunk = {keys.at + last, values.at + last, NULL, NULL, stride, count, head_dim, is_bf16, 0};
    check_chunk(kernels, &chunk);
    chunk.ahead_keys = keys.at + last, chunk.ahead_values = values.at + last, chunk.ahead_is_contiguous = count % 2;
    check_chunk(kernels, &chunk);
    release(keys), release(values);
}

int check_attention(const IsaKernels *use) {
    const int64_t dims[] = {2, 22, 24, 32, 64, 80, 128};
    failures = 0;
    for (size_t i = 0; i < sizeof dims / sizeof *dims; i++)
        for (int64_t count = 1; count <= ATTENTION_KEYS; count += count < 18 ? 1 : 15)
            for (int is_bf16 = 0; is_bf16 < 2; is_bf16++) check_last_head(use->attention, count, dims[i], is_bf16);
    return failures;
}
