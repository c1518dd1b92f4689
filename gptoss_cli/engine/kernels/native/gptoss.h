/* The CPU kernels of gptoss: what they share. Knows no Python and no torch.

   Pointers to weights may be unaligned, for they point into mapped files; nothing past the last element of an array is
   read. bf16 values are two bytes each. */
#ifndef GPTOSS_H
#define GPTOSS_H

#include <stdint.h>
#include <string.h>

#include "attention.h"

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#elif defined(__GNUC__)
#define EXPORT __attribute__((visibility("default")))
#else
#define EXPORT
#endif

#if (defined(__x86_64__) || defined(_M_X64)) && defined(__GNUC__)
#define HAS_AVX2 1
#endif

/* GROUP blocks are packed together, with FACTORS 4-byte numbers for each. Quantized activations reach to MOST_INT16, the
   largest that is two signed bytes, 127 * 256 + 127, or to MOST_INT8. */
enum { BLOCK = 32, BLOCK_BYTES = 16, TILE_ROWS = 16, SIDE = 4, GROUP = 8, FACTORS = 2 };
enum { MOST_INT16 = 32639, MOST_INT8 = 127 };

/* Mxfp4Kernels with MXFP4 weights (OCP MX v1.0), blocks [rows, n, 16] and scales [rows, n] with bias 127, of activations
   that are integers of `value_bytes` with a factor for each block. Where they lie is each packing's own affair. */
typedef struct {
    int64_t value_bytes;
    /* A token for dots: values [padded, 32] and factors [padded, FACTORS], where padded is blocks rounded up to whole
       groups, and both on a line of the cache. */
    void (*pack_blocks)(void *values, float *factors, const float *x, int64_t blocks);
    /* sums [tokens, rows]. */
    void (*dots)(float *sums, const uint8_t *blocks, const uint8_t *scales, int64_t rows, const void *values,
                 const float *factors, int64_t n, int64_t tokens);
    /* One of so many tokens for tile: every `tokens`-th of values [blocks, tokens, 32] and factors [blocks, tokens]. */
    void (*pack_tile)(void *values, float *factors, const float *x, int64_t blocks, int64_t tokens);
    /* TILE_ROWS rows by many tokens: sums [tokens, TILE_ROWS]. */
    void (*tile)(float *sums, const uint8_t *blocks, const uint8_t *scales, int64_t n, const void *values,
                 const float *factors, int64_t tokens);
} Mxfp4Kernels;

/* One way of computing the inner loops, for one set of instructions. The layouts of packed activations are its own. */
typedef struct {
    const char *name;
    const Mxfp4Kernels *int16, *int8;
    /* n floats, for dot_bf16. */
    void (*pack_float)(float *packed, const float *x, int64_t n);
    /* Sum of n products. */
    float (*dot_bf16)(const uint8_t *weights, const float *packed, int64_t n);
    /* Blocks of 32 floats to int16, each with its own factor: values [blocks, 32] in natural order, factors [blocks]. */
    void (*quantize)(int16_t *values, float *factors, const float *x, int64_t blocks);
    /* A row of MXFP4 weights by floats. */
    float (*dot_mxfp4_float)(const uint8_t *blocks, const uint8_t *scales, const float *x, int64_t n);
    /* 8-bit weights [n, 32] with a bf16 factor [n] for each block, and activations as quantize leaves them. */
    float (*dot_int8)(const int8_t *weights, const uint8_t *weight_factors, const int16_t *values,
                      const float *factors, int64_t n);
    /* Adds to sums [tokens, SIDE], `stride` floats a token, what rows [SIDE, n] make of x [tokens, n], `x_stride` floats a
       token. n is a multiple of 8. */
    void (*tile_float)(float *sums, int64_t stride, const float *rows, const float *x, int64_t x_stride,
                       int64_t tokens, int64_t n);
    const AttentionKernels *attention;
} IsaKernels;

extern const IsaKernels gptoss_scalar;
#ifdef HAS_AVX2
extern const IsaKernels gptoss_avx2;
#endif

/* rows x columns. bf16 if `factors` is NULL; else int8, columns rounded up to whole blocks, a bf16 factor a block. */
typedef struct {
    const uint8_t *weight;
    const uint8_t *factors;
    const uint8_t *bias; /* bf16, or NULL for none */
    int64_t rows;
} Matrix;

/* One matrix per expert: blocks [experts, rows, groups, 16], scales [experts, rows, groups], bias bf16. */
typedef struct {
    const uint8_t *blocks;
    const uint8_t *scales;
    const uint8_t *bias;
    int64_t rows;
    int64_t groups; /* blocks a row */
} Experts;

typedef struct {
    int64_t tokens, query_heads, kv_heads, head_dim, keys;
    int64_t first;    /* the position of the first key */
    int64_t position; /* the position of the first query */
    int64_t window;   /* keys that a query sees, itself included; 0 for all up to itself */
    int32_t is_bf16;  /* whether keys and values are bf16, else float32 */
} Attention;

/* The kernels in use: the best that this machine can run, or those that gptoss_select chose. */
const IsaKernels *gptoss_kernels(void);

/* One piece of a phase. `thread` says which thread runs it: an index into scratch memory, below the number of threads. */
typedef void (*Piece)(void *context, int64_t piece, int thread);

/* Run pieces 0 to count - 1, each once, on at most `threads` threads, and return when all are done. Each thread runs a
   contiguous share of them in order and then takes pieces from the others' shares. */
void gptoss_parallel(Piece run, void *context, int64_t count, int threads);

/* How many of `threads` are worth waking for a phase that reads so many bytes. */
int gptoss_worthwhile(int64_t bytes, int threads);

/* The form in which products with MXFP4 weights take activations. library.py has the same numbers. */
enum { ACTIVATIONS_INT16, ACTIVATIONS_FLOAT32, ACTIVATIONS_INT8 };

/* The operations; what they do stands where they are defined. */
EXPORT int gptoss_dense(float *y, float *normed, const float *x, const uint8_t *norm, const float *residual,
                        const Matrix *matrices, int64_t count, int64_t tokens, int64_t columns, float eps,
                        int threads);
EXPORT void gptoss_rotate(float *out, const float *x, const float *cosines, const float *sines, int64_t tokens,
                          int64_t heads, int64_t d);
EXPORT int gptoss_attend(float *out, const float *queries, const uint8_t *keys, const uint8_t *values,
                         const uint8_t *sinks, const Attention *a, int threads);
EXPORT void gptoss_choose(int64_t *chosen, float *expert_weights, const float *logits, int64_t tokens, int64_t experts,
                          int64_t active);
EXPORT int gptoss_mix_one(float *out, const float *x, const float *normed, const int64_t *experts, const float *expert_weights,
                          int64_t active, const Experts *gate_up, const Experts *down, float limit, int activations,
                          int threads);

static inline float float_of_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline float load_bf16(const uint8_t *weights, int64_t i) {
    uint16_t bits;
    memcpy(&bits, weights + 2 * i, sizeof bits);
    return float_of_bits((uint32_t)bits << 16);
}

/* The nearest bf16, of two the even one; NaN stays NaN. */
static inline uint16_t bf16_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (value != value) return 0x7FC0u;
    return (uint16_t)((bits + 0x7FFFu + (bits >> 16 & 1)) >> 16);
}

/* 2^(exponent - 127), NaN for 255: E8M0. 2^-127 is subnormal. */
static inline float power_of_two(uint8_t exponent) {
    if (exponent == 255) return float_of_bits(0x7FC00000u);
    return float_of_bits(exponent == 0 ? 0x00400000u : (uint32_t)exponent << 23);
}

#endif
