/* The inner loops in plain C: for machines nothing better is written for, and the oracle of what is. */
#include <math.h>

#include "gptoss.h"

/* Twice the E2M1 values. */
static const int8_t DOUBLED[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

static int weight(const uint8_t *block, int element) {
    return DOUBLED[element & 1 ? block[element / 2] >> 4 : block[element / 2] & 15];
}

static void pack_float(float *packed, const float *x, int64_t n) { memcpy(packed, x, (size_t)n * sizeof *x); }

static float dot_bf16(const uint8_t *weights, const float *packed, int64_t n) {
    float parts[8] = {0};
    for (int64_t i = 0; i < n; i++) parts[i % 8] += load_bf16(weights, i) * packed[i];
    return ((parts[0] + parts[1]) + (parts[2] + parts[3])) + ((parts[4] + parts[5]) + (parts[6] + parts[7]));
}

static void quantize_block(int16_t *values, float *factor, const float *x, float limit) {
    float most = 0, broken = 0;
    for (int i = 0; i < BLOCK; i++) {
        if (fabsf(x[i]) > most) most = fabsf(x[i]);
        broken += x[i] * 0.0f; /* NaN once anything is NaN or infinite, and then all that is made of it */
    }
    float inverse = most > 0 && broken == 0 ? limit / most : 0;
    if (inverse > 3e38f) inverse = 0; /* of numbers below 1e-34 nothing remains */
    for (int i = 0; i < BLOCK; i++) values[i] = inverse == 0 ? 0 : (int16_t)lrintf(x[i] * inverse);
    *factor = most / limit + broken;
}

static void quantize(int16_t *values, float *factors, const float *x, int64_t blocks) {
    for (int64_t g = 0; g < blocks; g++) quantize_block(values + g * BLOCK, factors + g, x + g * BLOCK, MOST_INT16);
}

static int32_t block_sum(const uint8_t *block, const int16_t *values) {
    int32_t sum = 0;
    for (int i = 0; i < BLOCK; i++) sum += weight(block, i) * values[i];
    return sum;
}

static void pack_blocks(int16_t *values, float *factors, const float *x, int64_t blocks, float limit) {
    for (int64_t g = 0; g < blocks; g++) quantize_block(values + g * BLOCK, factors + g * FACTORS, x + g * BLOCK, limit);
}

static void pack_blocks_int16(void *values, float *factors, const float *x, int64_t blocks) {
    pack_blocks(values, factors, x, blocks, MOST_INT16);
}

static void pack_blocks_int8(void *values, float *factors, const float *x, int64_t blocks) {
    pack_blocks(values, factors, x, blocks, MOST_INT8);
}

static void dots(float *sums, const uint8_t *blocks, const uint8_t *scales, int64_t rows, const void *from,
                 const float *factors, int64_t n, int64_t tokens) {
    const int16_t *values = from;
    int64_t padded = (n + GROUP - 1) / GROUP * GROUP;
    for (int64_t t = 0; t < tokens; t++, values += padded * BLOCK, factors += padded * FACTORS)
        for (int64_t row = 0; row < rows; row++) {
            float sum = 0;
            for (int64_t g = 0; g < n; g++) {
                float part = (float)block_sum(blocks + (row * n + g) * BLOCK_BYTES, values + g * BLOCK) * 0.5f;
                sum += part * factors[g * FACTORS] * power_of_two(scales[row * n + g]);
            }
            sums[t * rows + row] = sum;
        }
}

static float dot_mxfp4_float(const uint8_t *blocks, const uint8_t *scales, const float *x, int64_t n) {
    float sum = 0;
    for (int64_t g = 0; g < n; g++) {
        float part = 0;
        for (int i = 0; i < BLOCK; i++) part += (float)weight(blocks + g * BLOCK_BYTES, i) * x[g * BLOCK + i];
        sum += part * 0.5f * power_of_two(scales[g]);
    }
    return sum;
}

static float dot_int8(const int8_t *weights, const uint8_t *weight_factors, const int16_t *values,
                      const float *factors, int64_t n) {
    float sum = 0;
    for (int64_t g = 0; g < n; g++) {
        int32_t part = 0;
        for (int i = 0; i < BLOCK; i++) part += weights[g * BLOCK + i] * values[g * BLOCK + i];
        sum += (float)part * factors[g] * load_bf16(weight_factors, g);
    }
    return sum;
}

static void tile_float(float *sums, int64_t stride, const float *rows, const float *x, int64_t x_stride, int64_t tokens,
                       int64_t n) {
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t row = 0; row < SIDE; row++) {
            float parts[8] = {0};
            for (int64_t i = 0; i < n; i++) parts[i % 8] += rows[row * n + i] * x[t * x_stride + i];
            sums[t * stride + row] +=
                ((parts[0] + parts[1]) + (parts[2] + parts[3])) + ((parts[4] + parts[5]) + (parts[6] + parts[7]));
        }
}

static void pack_tile(int16_t *values, float *factors, const float *x, int64_t blocks, int64_t tokens, float limit) {
    for (int64_t g = 0; g < blocks; g++)
        quantize_block(values + g * tokens * BLOCK, factors + g * tokens, x + g * BLOCK, limit);
}

static void pack_tile_int16(void *values, float *factors, const float *x, int64_t blocks, int64_t tokens) {
    pack_tile(values, factors, x, blocks, tokens, MOST_INT16);
}

static void pack_tile_int8(void *values, float *factors, const float *x, int64_t blocks, int64_t tokens) {
    pack_tile(values, factors, x, blocks, tokens, MOST_INT8);
}

static void tile(float *sums, const uint8_t *blocks, const uint8_t *scales, int64_t n, const void *values,
                 const float *factors, int64_t tokens) {
    for (int64_t t = 0; t < tokens; t++) {
        for (int64_t row = 0; row < TILE_ROWS; row++) {
            float sum = 0;
            for (int64_t g = 0; g < n; g++) {
                const int16_t *block = (const int16_t *)values + (g * tokens + t) * BLOCK;
                float part = (float)block_sum(blocks + (row * n + g) * BLOCK_BYTES, block) * 0.5f;
                sum += part * factors[g * tokens + t] * power_of_two(scales[row * n + g]);
            }
            sums[t * TILE_ROWS + row] = sum;
        }
    }
}

/* Obvious rather than small: 8-bit activations are held in 16 bits. */
static const Mxfp4Kernels mxfp4_int16 = {sizeof(int16_t), pack_blocks_int16, dots, pack_tile_int16, tile};
static const Mxfp4Kernels mxfp4_int8 = {sizeof(int16_t), pack_blocks_int8, dots, pack_tile_int8, tile};

const IsaKernels gptoss_scalar = {
    "scalar", &mxfp4_int16, &mxfp4_int8, pack_float, dot_bf16, quantize, dot_mxfp4_float,
    dot_int8, tile_float,   &gptoss_scalar_attention,
};
