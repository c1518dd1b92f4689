/* Products of MXFP4 rows in NEON without DotProd, those with float32 activations, and the packing of activations. */
#include "neon.h"

#ifdef HAS_NEON

#define FUNCTION
#define INLINE static inline __attribute__((always_inline))

/* Weights are at most 12 in magnitude, so the 16-bit sums of two products cannot overflow. */
INLINE int32x4_t dot(int32x4_t sums, int8x16_t weights, int8x16_t x) {
    int16x8_t products = vmull_s8(vget_low_s8(weights), vget_low_s8(x));
    return vpadalq_s16(sums, vmlal_high_s8(products, weights, x));
}

#include "mxfp4_products.h"

/* One block: planes of 16 even elements and 16 odd ones. Returns its factor, halved because weights are doubled. */
INLINE float pack_block(int8_t *to, const float *x, const int planes) {
    int16_t natural[BLOCK];
    float factor = gptoss_neon_quantize_block(natural, x, planes == PLANES_INT8 ? MOST_INT8 : MOST_INT16);
    int16x8x2_t first = vld2q_s16(natural), second = vld2q_s16(natural + 16);
    for (int i = 0; i < 2; i++) {
        /* The low byte is signed, so the high one is that of x - low. */
        int8x16_t low = vcombine_s8(vmovn_s16(first.val[i]), vmovn_s16(second.val[i]));
        if (planes == PLANES_INT16) {
            int16x8_t a = vsubq_s16(first.val[i], vmovl_s8(vget_low_s8(low)));
            int16x8_t b = vsubq_s16(second.val[i], vmovl_high_s8(low));
            vst1q_s8(to + 16 * i, vcombine_s8(vshrn_n_s16(a, 8), vshrn_n_s16(b, 8)));
        }
        vst1q_s8(to + (planes - 1) * PLANE + 16 * i, low);
    }
    return factor * 0.5f;
}

INLINE void pack(void *packed, const float *x, int64_t blocks, const int planes) {
    int8_t *values = packed;
    int64_t padded = padded_blocks(blocks);
    float *factors = (float *)(void *)(values + padded * planes * PLANE);
    memset(packed, 0, (size_t)(padded * (planes * PLANE + (int64_t)sizeof *factors)));
    for (int64_t g = 0; g < blocks; g++) factors[g] = pack_block(values + g * planes * PLANE, x + g * BLOCK, planes);
}

INLINE void pack_tile(void *packed, const float *x, int64_t blocks, int64_t token, int64_t tokens, const int planes) {
    int8_t *values = packed;
    float *factors = (float *)(void *)(values + blocks * tokens * planes * PLANE);
    for (int64_t g = 0; g < blocks; g++) {
        int64_t at = g * tokens + token;
        factors[at] = pack_block(values + at * planes * PLANE, x + g * BLOCK, planes);
    }
}

void gptoss_neon_pack_mxfp4_int8(void *packed, const float *x, int64_t blocks) { pack(packed, x, blocks, PLANES_INT8); }

void gptoss_neon_pack_mxfp4_int16(void *packed, const float *x, int64_t blocks) {
    pack(packed, x, blocks, PLANES_INT16);
}

void gptoss_neon_pack_tile_int8(void *packed, const float *x, int64_t blocks, int64_t token, int64_t tokens) {
    pack_tile(packed, x, blocks, token, tokens, PLANES_INT8);
}

void gptoss_neon_pack_tile_int16(void *packed, const float *x, int64_t blocks, int64_t token, int64_t tokens) {
    pack_tile(packed, x, blocks, token, tokens, PLANES_INT16);
}

/* 16 weights by 16 activations. */
INLINE float32x4_t add_sixteen(float32x4_t sum, int8x16_t weights, const float *x) {
    int16x8_t low = vmovl_s8(vget_low_s8(weights)), high = vmovl_high_s8(weights);
    sum = vfmaq_f32(sum, vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))), vld1q_f32(x));
    sum = vfmaq_f32(sum, vcvtq_f32_s32(vmovl_high_s16(low)), vld1q_f32(x + 4));
    sum = vfmaq_f32(sum, vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))), vld1q_f32(x + 8));
    return vfmaq_f32(sum, vcvtq_f32_s32(vmovl_high_s16(high)), vld1q_f32(x + 12));
}

static float dot_float32(const uint8_t *blocks, const uint8_t *scales, const float *x, int64_t n) {
    float32x4_t sums = vdupq_n_f32(0);
    for (int64_t g = 0; g < n; g++, x += BLOCK) {
        Weights w = unpack_block(blocks + g * BLOCK_BYTES);
        float32x4_t sum = add_sixteen(vdupq_n_f32(0), vzip1q_s8(w.evens, w.odds), x);
        sum = add_sixteen(sum, vzip2q_s8(w.evens, w.odds), x + 16);
        sums = vfmaq_n_f32(sums, vmulq_n_f32(sum, 0.5f), power_of_two(scales[g]));
    }
    return vaddvq_f32(sums);
}

static void pack_float32(void *packed, const float *x, int64_t blocks) {
    memcpy(packed, x, (size_t)(blocks * BLOCK) * sizeof *x);
}

static void dots_float32(float *sums, const uint8_t *blocks, const uint8_t *scales, int64_t rows, const void *packed,
                         int64_t n, int64_t tokens) {
    for (int64_t row = 0; row < rows; row++)
        for (int64_t t = 0; t < tokens; t++)
            sums[t * rows + row] = dot_float32(blocks + row * n * BLOCK_BYTES, scales + row * n,
                                               (const float *)packed + t * padded_blocks(n) * BLOCK, n);
}

const Mxfp4Kernels gptoss_neon_int16 = {
    PLANES_INT16 * PLANE + sizeof(float), TILE_ROWS,  gptoss_neon_pack_mxfp4_int16, dots_int16,
    gptoss_neon_pack_tile_int16,          tile_int16,
};
const Mxfp4Kernels gptoss_neon_int8 = {
    PLANES_INT8 * PLANE + sizeof(float), TILE_ROWS, gptoss_neon_pack_mxfp4_int8, dots_int8,
    gptoss_neon_pack_tile_int8,          tile_int8,
};
const Mxfp4Kernels gptoss_neon_float32 = {BLOCK * sizeof(float), 0, pack_float32, dots_float32, NULL, NULL};

#else

typedef int gptoss_no_neon_mxfp4;

#endif
