/* Products with bf16, int8 and float32 rows in NEON, and the quantization of activations. */
#include "neon.h"

#ifdef HAS_NEON

/* Tokens and rows that a tile of float32 takes at once: 16 sums, 4 inputs and a row fit into the 32 registers. */
enum { TOKENS = 4, ROWS = 4 };

float gptoss_neon_quantize_block(int16_t *values, const float *x, float limit) {
    float32x4_t most = vdupq_n_f32(0), broken = vdupq_n_f32(0);
    for (int i = 0; i < BLOCK; i += 4) {
        float32x4_t part = vld1q_f32(x + i);
        most = vmaxnmq_f32(vabsq_f32(part), most);
        broken = vfmaq_f32(broken, part, vdupq_n_f32(0));
    }
    float largest = vmaxvq_f32(most), nan = vaddvq_f32(broken);
    float inverse = largest > 0 && nan == 0 ? limit / largest : 0;
    if (inverse > 3e38f) inverse = 0;
    for (int i = 0; i < BLOCK; i += 4) {
        /* Times 0 an infinite value would be NaN, which becomes 0 as well. */
        int32x4_t whole = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + i), inverse));
        vst1_s16(values + i, vmovn_s32(inverse == 0 ? vdupq_n_s32(0) : whole));
    }
    return largest / limit + nan;
}

void gptoss_neon_pack_bf16(void *packed, const float *x, int64_t n) { memcpy(packed, x, (size_t)n * sizeof *x); }

static inline float32x4_t low_of_bf16(uint16x8_t bits) {
    return vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(bits), 16));
}

static inline float32x4_t high_of_bf16(uint16x8_t bits) {
    return vreinterpretq_f32_u32(vshll_high_n_u16(bits, 16));
}

float gptoss_neon_dot_bf16(const uint8_t *weights, const void *packed, int64_t n) {
    const float *x = packed;
    float32x4_t sums[8];
    int64_t i = 0;
    for (int j = 0; j < 8; j++) sums[j] = vdupq_n_f32(0);
    for (; i + 32 <= n; i += 32) {
        prefetch_now(weights + 2 * i + AHEAD_BYTES);
        for (int j = 0; j < 4; j++) {
            uint16x8_t bits = vreinterpretq_u16_u8(vld1q_u8(weights + 2 * i + 16 * j));
            sums[2 * j] = vfmaq_f32(sums[2 * j], low_of_bf16(bits), vld1q_f32(x + i + 8 * j));
            sums[2 * j + 1] = vfmaq_f32(sums[2 * j + 1], high_of_bf16(bits), vld1q_f32(x + i + 8 * j + 4));
        }
    }
    for (int j = 0; j < 4; j++) sums[j] = vaddq_f32(sums[j], sums[j + 4]);
    float sum = vaddvq_f32(vaddq_f32(vaddq_f32(sums[0], sums[1]), vaddq_f32(sums[2], sums[3])));
    for (; i < n; i++) sum += load_bf16(weights, i) * x[i];
    return sum;
}

/* Values [padded, 32] in natural order, and then factors [padded]. */
void gptoss_neon_pack_int8(void *packed, const float *x, int64_t n) {
    int16_t *values = packed;
    float *factors = (float *)(values + padded_blocks(n) * BLOCK);
    for (int64_t g = 0; g < n; g++)
        factors[g] = gptoss_neon_quantize_block(values + g * BLOCK, x + g * BLOCK, MOST_INT16);
}

/* 4 partial sums of a block, each below 8 * 128 * MOST_INT16. */
static inline int32x4_t multiply_int8(const int8_t *weights, const int16_t *values) {
    int32x4_t sums = vdupq_n_s32(0), others = vdupq_n_s32(0);
    for (int half = 0; half < 2; half++, weights += 16, values += 16) {
        int8x16_t bytes = vld1q_s8(weights);
        int16x8_t low = vmovl_s8(vget_low_s8(bytes)), high = vmovl_high_s8(bytes);
        int16x8_t x = vld1q_s16(values), y = vld1q_s16(values + 8);
        sums = vmlal_s16(sums, vget_low_s16(low), vget_low_s16(x));
        others = vmlal_high_s16(others, low, x);
        sums = vmlal_s16(sums, vget_low_s16(high), vget_low_s16(y));
        others = vmlal_high_s16(others, high, y);
    }
    return vaddq_s32(sums, others);
}

float gptoss_neon_dot_int8(const int8_t *weights, const uint8_t *weight_factors, const void *packed, int64_t n) {
    const int16_t *values = packed;
    const float *factors = (const float *)(values + padded_blocks(n) * BLOCK);
    float32x4_t sums = vdupq_n_f32(0);
    int64_t g = 0;
    for (; g + GROUP <= n; g += GROUP) {
        int32x4_t parts[GROUP];
        prefetch_now(weights + g * BLOCK + AHEAD_BYTES), prefetch_now(weights + g * BLOCK + AHEAD_BYTES + LINE);
        for (int i = 0; i < GROUP; i++) parts[i] = multiply_int8(weights + (g + i) * BLOCK, values + (g + i) * BLOCK);
        uint16x4_t bits = vreinterpret_u16_u8(vld1_u8(weight_factors + 2 * g));
        float32x4_t part = vmulq_f32(vcvtq_f32_s32(sums_of_four(parts)), vld1q_f32(factors + g));
        sums = vfmaq_f32(sums, part, vreinterpretq_f32_u32(vshll_n_u16(bits, 16)));
    }
    float sum = vaddvq_f32(sums);
    for (; g < n; g++) {
        float part = (float)vaddvq_s32(multiply_int8(weights + g * BLOCK, values + g * BLOCK)) * factors[g];
        sum += part * load_bf16(weight_factors, g);
    }
    return sum;
}

void gptoss_neon_widen_bf16(float *out, const uint8_t *weights, int64_t n) {
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        uint16x8_t bits = vreinterpretq_u16_u8(vld1q_u8(weights + 2 * i));
        vst1q_f32(out + i, low_of_bf16(bits)), vst1q_f32(out + i + 4, high_of_bf16(bits));
    }
    for (; i < n; i++) out[i] = load_bf16(weights, i);
}

void gptoss_neon_widen_int8(float *out, const int8_t *weights, const uint8_t *factors, int64_t n) {
    for (int64_t i = 0; i < n * BLOCK; i += 8) {
        float factor = load_bf16(factors, i / BLOCK);
        int16x8_t values = vmovl_s8(vld1_s8(weights + i));
        vst1q_f32(out + i, vmulq_n_f32(vcvtq_f32_s32(vmovl_s16(vget_low_s16(values))), factor));
        vst1q_f32(out + i + 4, vmulq_n_f32(vcvtq_f32_s32(vmovl_high_s16(values)), factor));
    }
}

/* One token after the other, with zeros at the end. */
void gptoss_neon_pack_float(float *packed, const float *x, int64_t columns, int64_t padded, int64_t tokens) {
    for (int64_t t = 0; t < tokens; t++) {
        memcpy(packed + t * padded, x + t * columns, (size_t)columns * sizeof *x);
        memset(packed + t * padded + columns, 0, (size_t)(padded - columns) * sizeof *x);
    }
}

static inline __attribute__((always_inline)) void multiply_floats(float *sums, const float *rows, const float *x,
                                                                  int64_t x_stride, int64_t n, const int tokens) {
    float32x4_t parts[TOKENS][ROWS];
    for (int t = 0; t < tokens; t++)
        for (int row = 0; row < ROWS; row++) parts[t][row] = vdupq_n_f32(0);
    for (int64_t i = 0; i < n; i += 4) {
        float32x4_t inputs[TOKENS];
        for (int t = 0; t < tokens; t++) inputs[t] = vld1q_f32(x + t * x_stride + i);
        for (int row = 0; row < ROWS; row++) {
            float32x4_t weights = vld1q_f32(rows + row * STRIP_STRIDE + i);
            for (int t = 0; t < tokens; t++) parts[t][row] = vfmaq_f32(parts[t][row], weights, inputs[t]);
        }
    }
    for (int t = 0; t < tokens; t++)
        for (int row = 0; row < ROWS; row++) sums[row * DENSE_TOKENS + t] += vaddvq_f32(parts[t][row]);
}

void gptoss_neon_tile_float(float *sums, const float *rows, const float *packed, int64_t padded, int64_t start,
                            int64_t n, int64_t tokens) {
    for (int64_t t = 0; t < tokens; t += TOKENS)
        for (int64_t row = 0; row < DENSE_ROWS; row += ROWS) {
            const float *some = rows + row * STRIP_STRIDE, *x = packed + t * padded + start;
            float *to = sums + row * DENSE_TOKENS + t;
            switch (tokens - t) {
                case 1: multiply_floats(to, some, x, padded, n, 1); break;
                case 2: multiply_floats(to, some, x, padded, n, 2); break;
                case 3: multiply_floats(to, some, x, padded, n, 3); break;
                default: multiply_floats(to, some, x, padded, n, TOKENS); break;
            }
        }
}

#else

typedef int gptoss_no_neon_dense;

#endif
