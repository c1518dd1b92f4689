/* The CPU kernels of gptoss: what they share. Knows no Python and no torch.

   Pointers to weights may be unaligned, for they point into mapped files; nothing past the last element of an array is
   read. bf16 values are two bytes each. Threads are OpenMP's, and without OpenMP there is one. */
#ifndef GPTOSS_H
#define GPTOSS_H

#include <stdint.h>
#include <string.h>

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

enum { BLOCK = 32, BLOCK_BYTES = 16, TILE_ROWS = 16, FACTORS = 4 };

/* One way of computing the inner loops, for one set of instructions. The layouts of packed activations are its own. */
typedef struct {
    const char *name;
    /* n floats, for dot_bf16. */
    void (*pack_float)(float *packed, const float *x, int64_t n);
    /* Sum of n products. */
    float (*dot_bf16)(const uint8_t *weights, const float *packed, int64_t n);
    /* Blocks of 32 floats to int16, each with its own factor: values [blocks, 32] in natural order, factors [blocks]. */
    void (*quantize)(int16_t *values, float *factors, const float *x, int64_t blocks);
    /* The same for dot_mxfp4: values [blocks rounded up to even, 32], factors [blocks rounded up to even, FACTORS]. */
    void (*pack_blocks)(int16_t *values, float *factors, const float *x, int64_t blocks);
    /* MXFP4 (OCP MX v1.0) weights: blocks [n, 16] and exponents [n] with bias 127. */
    float (*dot_mxfp4)(const uint8_t *blocks, const uint8_t *exponents, const int16_t *values, const float *factors,
                       int64_t n);
    float (*dot_mxfp4_float)(const uint8_t *blocks, const uint8_t *exponents, const float *x, int64_t n);
    /* 8-bit weights [n, 32] with a bf16 factor [n] for each block, and activations as quantize leaves them. */
    float (*dot_int8)(const int8_t *weights, const uint8_t *weight_factors, const int16_t *values,
                      const float *factors, int64_t n);
    /* TILE_ROWS rows of MXFP4 weights by many tokens: sums [tokens, TILE_ROWS], from values [n, tokens, 32] and
       factors [n, tokens]. */
    void (*tile)(float *sums, const uint8_t *blocks, const uint8_t *exponents, int64_t n, const int16_t *values,
                 const float *factors, int64_t tokens);
    /* scores[i] = q . keys[i]; returns the largest. Vectors of d floats, d a multiple of 8. */
    float (*scores)(float *scores, const float *q, const float *keys, int64_t count, int64_t d);
    /* scores[i] = exp(scores[i] - most); returns their sum. `count` is a multiple of 8. */
    float (*exponentials)(float *scores, float most, int64_t count);
    /* sums[j] += shares[i] * values[i][j]. */
    void (*accumulate)(float *sums, const float *shares, const float *values, int64_t count, int64_t d);
} Instructions;

extern const Instructions gptoss_scalar;
#ifdef HAS_AVX2
extern const Instructions gptoss_avx2;
#endif

/* What is used: the best this machine has, or what gptoss_select asked for. */
const Instructions *gptoss_instructions(void);

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

/* 2^(exponent - 127), NaN for 255: E8M0. 2^-127 is subnormal. */
static inline float power_of_two(uint8_t exponent) {
    if (exponent == 255) return float_of_bits(0x7FC00000u);
    return float_of_bits(exponent == 0 ? 0x00400000u : (uint32_t)exponent << 23);
}

#endif
