/* Shared by the files for arm64. NEON is in every such CPU; functions for DotProd and I8MM are compiled for them alone,
   so that the library loads everywhere. */
#ifndef NEON_H
#define NEON_H

#include "../gptoss.h"

#ifdef HAS_NEON

#include <arm_neon.h>

#if defined(__clang__) && __clang_major__ < 16
#define DOTPROD /* for every function, see gptoss.h */
#define I8MM
#elif defined(__clang__)
#define DOTPROD __attribute__((target("dotprod")))
#define I8MM __attribute__((target("dotprod,i8mm")))
#else
#define DOTPROD __attribute__((target("arch=armv8.2-a+dotprod")))
#define I8MM __attribute__((target("arch=armv8.2-a+dotprod+i8mm")))
#endif

/* How far ahead of their use weights are prefetched. */
enum { AHEAD_BYTES = 1024 };

/* Blocks that are added up at a time: a lane is a block. */
enum { GROUP = 4 };

static inline int64_t padded_blocks(int64_t n) { return (n + PADDED_BLOCKS - 1) / PADDED_BLOCKS * PADDED_BLOCKS; }

/* The doubled weights of a block, even elements and odd ones. */
typedef struct {
    int8x16_t evens, odds;
} Weights;

static inline Weights unpack_block(const uint8_t *block) {
    const int8x16_t doubled = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
    uint8x16_t nibbles = vld1q_u8(block);
    return (Weights){vqtbl1q_s8(doubled, vandq_u8(nibbles, vdupq_n_u8(15))),
                     vqtbl1q_s8(doubled, vshrq_n_u8(nibbles, 4))};
}

/* 2^(exponent - 127) of 4 lanes, NaN for 255. The larger of two integers repairs the subnormal 2^-127. */
static inline float32x4_t powers_of_two(uint32x4_t scales) {
    uint32x4_t bits = vshlq_n_u32(scales, 23);
    uint32x4_t nan = vceqq_u32(bits, vdupq_n_u32(0x7F800000u));
    return vreinterpretq_f32_u32(vorrq_u32(vmaxq_u32(bits, vdupq_n_u32(0x00400000u)), nan));
}

/* Of 4 bytes that follow each other. */
static inline float32x4_t powers_of_bytes(const uint8_t *scales) {
    uint32_t bytes;
    memcpy(&bytes, scales, sizeof bytes);
    return powers_of_two(vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(bytes)))));
}

/* The sums of the lanes of four vectors, as one. */
static inline int32x4_t sums_of_four(const int32x4_t v[4]) {
    return vpaddq_s32(vpaddq_s32(v[0], v[1]), vpaddq_s32(v[2], v[3]));
}

/* Quantize a block to integers up to `limit` in magnitude; returns their factor. See quantize_block in scalar.c. */
float gptoss_neon_quantize_block(int16_t *values, const float *x, float limit);
void gptoss_neon_pack_bf16(void *packed, const float *x, int64_t n);
float gptoss_neon_dot_bf16(const uint8_t *weights, const void *packed, int64_t n);
void gptoss_neon_pack_int8(void *packed, const float *x, int64_t n);
float gptoss_neon_dot_int8(const int8_t *weights, const uint8_t *weight_factors, const void *packed, int64_t n);
void gptoss_neon_widen_bf16(float *out, const uint8_t *weights, int64_t n);
void gptoss_neon_widen_int8(float *out, const int8_t *weights, const uint8_t *factors, int64_t n);
void gptoss_neon_pack_float(float *packed, const float *x, int64_t columns, int64_t padded, int64_t tokens);
void gptoss_neon_tile_float(float *sums, const float *rows, const float *packed, int64_t padded, int64_t start,
                            int64_t n, int64_t tokens);
void gptoss_neon_swiglu(float *hidden, const float *pairs, int64_t n, float limit);

/* A block of a token as int8, or as two planes of int8: x = 256 * high + low. Each plane is 16 even elements and then
   16 odd ones. In dots the factors, halved because weights are doubled, lie behind all blocks of a token. */
enum { PLANE = BLOCK, PLANES_INT8 = 1, PLANES_INT16 = 2 };

void gptoss_neon_pack_mxfp4_int8(void *packed, const float *x, int64_t blocks);
void gptoss_neon_pack_mxfp4_int16(void *packed, const float *x, int64_t blocks);
/* values [blocks, tokens, planes, 32] and then factors [blocks, tokens]. */
void gptoss_neon_pack_tile_int8(void *packed, const float *x, int64_t blocks, int64_t token, int64_t tokens);
void gptoss_neon_pack_tile_int16(void *packed, const float *x, int64_t blocks, int64_t token, int64_t tokens);

extern const Mxfp4Kernels gptoss_neon_int16, gptoss_neon_int8, gptoss_neon_float32;
extern const Mxfp4Kernels gptoss_dotprod_int16, gptoss_dotprod_int8, gptoss_i8mm_int16, gptoss_i8mm_int8;
extern const AttentionKernels gptoss_neon_attention;

/* The rows of a tile, of which 4 are multiplied at a time: a lane is a row. */
enum { TILE_ROWS = 16, LANES_OF_ROWS = 4 };

/* Block `g` of the rows of a tile from `row` on, and the powers of two of their scales: a lane is a row. */
static inline float32x4_t unpack_rows(Weights *weights, const uint8_t *blocks, const uint8_t *scales, int64_t n,
                                      int64_t row, int64_t g) {
    uint8_t exponents[LANES_OF_ROWS];
    for (int64_t i = 0; i < LANES_OF_ROWS; i++) {
        weights[i] = unpack_block(blocks + ((row + i) * n + g) * BLOCK_BYTES);
        exponents[i] = scales[(row + i) * n + g];
    }
    return powers_of_bytes(exponents);
}

/* For the table with I8MM, whose dots are those with DotProd. */
void gptoss_dotprod_dots_int16(float *sums, const uint8_t *blocks, const uint8_t *scales, int64_t rows,
                               const void *packed, int64_t n, int64_t tokens);
void gptoss_dotprod_dots_int8(float *sums, const uint8_t *blocks, const uint8_t *scales, int64_t rows,
                              const void *packed, int64_t n, int64_t tokens);

#endif

#endif
