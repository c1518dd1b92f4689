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

#if defined(__aarch64__) && defined(__GNUC__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define HAS_NEON 1
/* Older clangs have these intrinsics only where every function may use them. */
#if !defined(__clang__) || __clang_major__ >= 16 || defined(__ARM_FEATURE_DOTPROD)
#define HAS_DOTPROD 1
#endif
#if defined(HAS_DOTPROD) && (!defined(__clang__) || __clang_major__ >= 16 || defined(__ARM_FEATURE_MATMUL_INT8))
#define HAS_I8MM 1
#endif
#endif

#if (defined(__x86_64__) || defined(_M_X64)) && defined(__GNUC__)
#define HAS_AVX2 1
#if __GNUC__ >= 10 || (defined(__clang_major__) && __clang_major__ >= 9)
#define HAS_AVX512 1
#endif
#endif

/* Quantized activations reach MOST_INT16, the largest that is two signed bytes, 127 * 256 + 127, or MOST_INT8. */
enum { BLOCK = 32, BLOCK_BYTES = 16, MOST_INT16 = 32639, MOST_INT8 = 127, LINE = 64 };

/* Packed activations fill whole lines and are padded to so many blocks. */
enum { PADDED_BLOCKS = 16 };

/* A tile of dense products: DENSE_ROWS rows as float32, STRIP columns at a time and STRIP_STRIDE floats apart, which is
   no power of two so that rows do not compete for the same cache sets. */
enum { DENSE_ROWS = 24, DENSE_TOKENS = 32, STRIP = 512, STRIP_STRIDE = STRIP + 16 };

/* Products of MXFP4 rows (OCP MX v1.0: blocks [rows, n, 16], scales [rows, n] with bias 127) with activations in one
   form. What a packed token looks like only the functions of one table know; it begins on a cache line. */
typedef struct {
    int64_t block_bytes; /* of a packed token for each block, after padding */
    int64_t tile_rows;   /* 0 if there is no tile */
    /* One token for dots. */
    void (*pack)(void *packed, const float *x, int64_t blocks);
    /* sums [tokens, rows]. */
    void (*dots)(float *sums, const uint8_t *blocks, const uint8_t *scales, int64_t rows, const void *packed, int64_t n,
                 int64_t tokens);
    /* Token number `token` of `tokens`, which are packed together for tile. */
    void (*pack_tile)(void *packed, const float *x, int64_t blocks, int64_t token, int64_t tokens);
    /* tile_rows rows by many tokens: sums [tokens, tile_rows]. */
    void (*tile)(float *sums, const uint8_t *blocks, const uint8_t *scales, int64_t n, const void *packed,
                 int64_t tokens);
} Mxfp4Kernels;

/* The inner loops for one instruction set. */
typedef struct {
    const char *name;
    const Mxfp4Kernels *int16, *int8, *float32;
    int64_t bf16_bytes; /* of a packed token for each column, padded to whole blocks, for dot_bf16 */
    int64_t int8_bytes; /* of a packed token for each block, padded to PADDED_BLOCKS, for dot_int8 */
    void (*pack_bf16)(void *packed, const float *x, int64_t n);
    /* The sum of n products with a row of bf16 weights. */
    float (*dot_bf16)(const uint8_t *weights, const void *packed, int64_t n);
    /* NULL, or faster than dot_bf16 for several tokens: sums [rows, tokens]. A token is packed as floats, which are
       padded to whole blocks. */
    void (*pack_few)(float *packed, const float *x, int64_t n);
    void (*dots_few)(float *sums, const uint8_t *weights, int64_t rows, const float *packed, int64_t n,
                     int64_t tokens);
    void (*pack_int8)(void *packed, const float *x, int64_t n);
    /* 8-bit weights [n, 32] with a bf16 factor [n] for each block, by activations quantized to int16. */
    float (*dot_int8)(const int8_t *weights, const uint8_t *weight_factors, const void *packed, int64_t n);
    /* n weights as floats. */
    void (*widen_bf16)(float *out, const uint8_t *weights, int64_t n);
    /* n blocks of weights, each with its factor, as floats. */
    void (*widen_int8)(float *out, const int8_t *weights, const uint8_t *factors, int64_t n);
    /* Up to DENSE_TOKENS tokens x [tokens, columns], for tile_float: `padded` columns of DENSE_TOKENS floats. */
    void (*pack_float)(float *packed, const float *x, int64_t columns, int64_t padded, int64_t tokens);
    /* Adds to sums [DENSE_ROWS, DENSE_TOKENS] the products of rows [DENSE_ROWS, STRIP_STRIDE] with the n columns of the
       packed tokens from `start` on. n is a multiple of 32. */
    void (*tile_float)(float *sums, const float *rows, const float *packed, int64_t padded, int64_t start, int64_t n,
                       int64_t tokens);
    const AttentionKernels *attention;
    /* hidden [n] of pairs [n, 2], gate and up: gate * sigmoid(1.702 gate) * (up + 1), limited as in the model. */
    void (*swiglu)(float *hidden, const float *pairs, int64_t n, float limit);
} IsaKernels;

extern const IsaKernels gptoss_scalar;
#ifdef HAS_AVX2
extern const IsaKernels gptoss_avx2;
#endif
#ifdef HAS_AVX512
extern const IsaKernels gptoss_avx512, gptoss_avx512_bf16; /* without and with AVX512_BF16 */
#endif
#ifdef HAS_NEON
extern const IsaKernels gptoss_neon, gptoss_dotprod, gptoss_i8mm;
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

EXPORT int gptoss_select(const char *name);

/* The tables that this machine can run, best first, up to NULL. */
const IsaKernels *const *gptoss_tables(void);

/* 1 if the table computes what the scalar one does. Leaves any kernels selected. */
int gptoss_is_right(const IsaKernels *use);

/* One piece of a phase. `thread` says which thread runs it: an index into scratch memory, below the number of threads.
   */
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
EXPORT int gptoss_mix_one(float *out, const float *x, const float *normed, const int64_t *experts,
                          const float *expert_weights, int64_t active, const Experts *gate_up, const Experts *down,
                          float limit, int activations, int threads);

/* Ask for a cache line that is needed soon. Harmless for any address. */
static inline void prefetch(const void *at) {
#if defined(__GNUC__)
    __builtin_prefetch(at, 0, 2);
#else
    (void)at;
#endif
}

/* The same for a line that is needed at once, into the nearest cache. */
static inline void prefetch_now(const void *at) {
#if defined(__GNUC__)
    __builtin_prefetch(at, 0, 3);
#else
    (void)at;
#endif
}

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
