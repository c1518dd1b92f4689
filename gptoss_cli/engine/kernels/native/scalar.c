/* The inner loops in plain C: the fallback for other CPUs, and the oracle that every other table is tested against. */
#include <math.h>
#include <stddef.h>

#include "gptoss.h"

/* Twice the E2M1 values. */
static const int8_t DOUBLED[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

static int weight(const uint8_t *block, int element) {
    return DOUBLED[element & 1 ? block[element / 2] >> 4 : block[element / 2] & 15];
}

static void pack_bf16(void *packed, const float *x, int64_t n) { memcpy(packed, x, (size_t)n * sizeof *x); }

static float dot_bf16(const uint8_t *weights, const void *packed, int64_t n) {
    const float *x = packed;
    float parts[8] = {0};
    for (int64_t i = 0; i < n; i++) parts[i % 8] += load_bf16(weights, i) * x[i];
    return ((parts[0] + parts[1]) + (parts[2] + parts[3])) + ((parts[4] + parts[5]) + (parts[6] + parts[7]));
}

static void quantize_block(int16_t *values, float *factor, const float *x, float limit) {
    float most = 0, broken = 0;
    for (int i = 0; i < BLOCK; i++) {
        if (fabsf(x[i]) > most) most = fabsf(x[i]);
        broken += x[i] * 0.0f; /* NaN if any value is NaN or infinite, and then every product is NaN too */
    }
    float inverse = most > 0 && broken == 0 ? limit / most : 0;
    if (inverse > 3e38f) inverse = 0; /* numbers below 1e-34 become 0 */
    for (int i = 0; i < BLOCK; i++) values[i] = inverse == 0 ? 0 : (int16_t)lrintf(x[i] * inverse);
    *factor = most / limit + broken;
}

/* A block of quantized activations, whatever their form. */
typedef struct {
    int16_t values[BLOCK];
    float factor;
} Block;

static void pack(void *packed, const float *x, int64_t blocks, float limit) {
    Block *to = packed;
    for (int64_t g = 0; g < blocks; g++) quantize_block(to[g].values, &to[g].factor, x + g * BLOCK, limit);
}

static void pack_int16(void *packed, const float *x, int64_t blocks) { pack(packed, x, blocks, MOST_INT16); }

static void pack_int8(void *packed, const float *x, int64_t blocks) { pack(packed, x, blocks, MOST_INT8); }

static float dot(const uint8_t *blocks, const uint8_t *scales, const Block *x, int64_t n) {
    float sum = 0;
    for (int64_t g = 0; g < n; g++) {
        int32_t part = 0;
        for (int i = 0; i < BLOCK; i++) part += weight(blocks + g * BLOCK_BYTES, i) * x[g].values[i];
        sum += (float)part * 0.5f * x[g].factor * power_of_two(scales[g]);
    }
    return sum;
}

static void dots(float *sums, const uint8_t *blocks, const uint8_t *scales, int64_t rows, const void *packed, int64_t n,
                 int64_t tokens) {
    const Block *x = packed;
    int64_t stride = (n + PADDED_BLOCKS - 1) / PADDED_BLOCKS * PADDED_BLOCKS;
    for (int64_t t = 0; t < tokens; t++, x += stride)
        for (int64_t row = 0; row < rows; row++)
            sums[t * rows + row] = dot(blocks + row * n * BLOCK_BYTES, scales + row * n, x, n);
}

static void pack_tile_int16(void *packed, const float *x, int64_t blocks, int64_t token, int64_t tokens) {
    (void)tokens;
    pack((Block *)packed + token * blocks, x, blocks, MOST_INT16);
}

static void pack_tile_int8(void *packed, const float *x, int64_t blocks, int64_t token, int64_t tokens) {
    (void)tokens;
    pack((Block *)packed + token * blocks, x, blocks, MOST_INT8);
}

enum { TILE_ROWS = 16 };

static void tile(float *sums, const uint8_t *blocks, const uint8_t *scales, int64_t n, const void *packed,
                 int64_t tokens) {
    const Block *x = packed;
    for (int64_t t = 0; t < tokens; t++, x += n)
        for (int64_t row = 0; row < TILE_ROWS; row++)
            sums[t * TILE_ROWS + row] = dot(blocks + row * n * BLOCK_BYTES, scales + row * n, x, n);
}

static void pack_float32(void *packed, const float *x, int64_t blocks) {
    memcpy(packed, x, (size_t)(blocks * BLOCK) * sizeof *x);
}

static void dots_float32(float *sums, const uint8_t *blocks, const uint8_t *scales, int64_t rows, const void *packed,
                         int64_t n, int64_t tokens) {
    int64_t stride = (n + PADDED_BLOCKS - 1) / PADDED_BLOCKS * PADDED_BLOCKS * BLOCK;
    for (int64_t i = 0; i < tokens * rows; i++) {
        const float *x = (const float *)packed + i / rows * stride;
        float sum = 0;
        for (int64_t g = 0; g < n; g++) {
            float part = 0;
            int64_t at = i % rows * n + g;
            for (int j = 0; j < BLOCK; j++) part += (float)weight(blocks + at * BLOCK_BYTES, j) * x[g * BLOCK + j];
            sum += part * 0.5f * power_of_two(scales[at]);
        }
        sums[i] = sum;
    }
}

static float dot_int8(const int8_t *weights, const uint8_t *weight_factors, const void *packed, int64_t n) {
    const Block *x = packed;
    float sum = 0;
    for (int64_t g = 0; g < n; g++) {
        int32_t part = 0;
        for (int i = 0; i < BLOCK; i++) part += weights[g * BLOCK + i] * x[g].values[i];
        sum += (float)part * x[g].factor * load_bf16(weight_factors, g);
    }
    return sum;
}

static void widen_bf16(float *out, const uint8_t *weights, int64_t n) {
    for (int64_t i = 0; i < n; i++) out[i] = load_bf16(weights, i);
}

static void widen_int8(float *out, const int8_t *weights, const uint8_t *factors, int64_t n) {
    for (int64_t i = 0; i < n * BLOCK; i++) out[i] = (float)weights[i] * load_bf16(factors, i / BLOCK);
}

static void pack_float(float *packed, const float *x, int64_t columns, int64_t padded, int64_t tokens) {
    for (int64_t t = 0; t < tokens; t++) {
        memcpy(packed + t * padded, x + t * columns, (size_t)columns * sizeof *x);
        memset(packed + t * padded + columns, 0, (size_t)(padded - columns) * sizeof *x);
    }
}

static void tile_float(float *sums, const float *rows, const float *packed, int64_t padded, int64_t start, int64_t n,
                       int64_t tokens) {
    for (int64_t i = 0; i < DENSE_ROWS * tokens; i++) {
        const float *row = rows + i / tokens * STRIP_STRIDE, *x = packed + i % tokens * padded + start;
        float parts[8] = {0};
        for (int64_t j = 0; j < n; j++) parts[j % 8] += row[j] * x[j];
        sums[i / tokens * DENSE_TOKENS + i % tokens] +=
            ((parts[0] + parts[1]) + (parts[2] + parts[3])) + ((parts[4] + parts[5]) + (parts[6] + parts[7]));
    }
}

static float swiglu_of(float gate, float up, float limit) {
    gate = gate > limit ? limit : gate; /* comparisons that let a NaN through */
    up = up > limit ? limit : up < -limit ? -limit : up;
    return (up + 1.0f) * gate / (1.0f + expf(-1.702f * gate));
}

static void swiglu(float *hidden, const float *pairs, int64_t n, float limit) {
    for (int64_t i = 0; i < n; i++) hidden[i] = swiglu_of(pairs[2 * i], pairs[2 * i + 1], limit);
}

/* Obvious rather than small: 8-bit activations are held in 16 bits. */
static const Mxfp4Kernels int16 = {sizeof(Block), TILE_ROWS, pack_int16, dots, pack_tile_int16, tile};
static const Mxfp4Kernels int8 = {sizeof(Block), TILE_ROWS, pack_int8, dots, pack_tile_int8, tile};
static const Mxfp4Kernels float32 = {BLOCK * sizeof(float), 0, pack_float32, dots_float32, NULL, NULL};

const IsaKernels gptoss_scalar = {
    .name = "scalar",
    .int16 = &int16,
    .int8 = &int8,
    .float32 = &float32,
    .bf16_bytes = sizeof(float),
    .int8_bytes = sizeof(Block),
    .pack_bf16 = pack_bf16,
    .dot_bf16 = dot_bf16,
    .pack_int8 = pack_int16,
    .dot_int8 = dot_int8,
    .widen_bf16 = widen_bf16,
    .widen_int8 = widen_int8,
    .pack_float = pack_float,
    .tile_float = tile_float,
    .attention = &gptoss_scalar_attention,
    .swiglu = swiglu,
};
