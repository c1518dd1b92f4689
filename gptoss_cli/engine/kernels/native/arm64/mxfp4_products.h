/* Products of MXFP4 rows with activations of one or two planes. The file that includes this defines FUNCTION, INLINE
   and `dot`, which adds the products of 16 bytes to 4 sums. neon.h says what packed activations look like. */

/* The doubled products of a block, 4 sums. They stay below 2^24 together, so the float32 of their sum is exact. */
INLINE int32x4_t multiply_block(Weights w, const int8_t *x, const int planes) {
    int32x4_t sums = dot(dot(vdupq_n_s32(0), w.evens, vld1q_s8(x)), w.odds, vld1q_s8(x + 16));
    if (planes == PLANES_INT8) return sums;
    x += PLANE;
    return dot(dot(vshlq_n_s32(sums, 8), w.evens, vld1q_s8(x)), w.odds, vld1q_s8(x + 16));
}

/* Add a group of blocks for each token; tokens are `bytes` apart. */
INLINE void add_group(float32x4_t *sums, const uint8_t *blocks, const uint8_t *scales, const int8_t *values,
                      const float *factors, int64_t bytes, const int tokens, const int planes) {
    Weights weights[GROUP];
    float32x4_t powers = powers_of_bytes(scales);
    for (int i = 0; i < GROUP; i++) weights[i] = unpack_block(blocks + i * BLOCK_BYTES);
    for (int t = 0; t < tokens; t++) {
        int32x4_t parts[GROUP];
        for (int i = 0; i < GROUP; i++)
            parts[i] = multiply_block(weights[i], values + t * bytes + i * planes * PLANE, planes);
        const float *f = (const float *)(const void *)((const char *)factors + t * bytes);
        /* In this order, because factor times power could underflow. */
        float32x4_t part = vmulq_f32(vcvtq_f32_s32(sums_of_four(parts)), vld1q_f32(f));
        sums[t] = vfmaq_f32(sums[t], part, powers);
    }
}

/* Tokens that a row of weights takes at once. */
enum { MANY = 4 };

INLINE void dots_of_some(float *to, const uint8_t *blocks, const uint8_t *scales, int64_t rows, const void *packed,
                         int64_t n, const int tokens, const int planes) {
    const int8_t *values = packed;
    const int64_t bytes = padded_blocks(n) * (planes * PLANE + (int64_t)sizeof(float));
    const float *factors = (const float *)(const void *)(values + padded_blocks(n) * planes * PLANE);
    int64_t rest = n % GROUP, whole = n - rest;
    for (int64_t row = 0; row < rows; row++, blocks += n * BLOCK_BYTES, scales += n) {
        float32x4_t sums[MANY];
        for (int t = 0; t < tokens; t++) sums[t] = vdupq_n_f32(0);
        for (int64_t g = 0; g < whole; g += GROUP) {
            prefetch_now(blocks + g * BLOCK_BYTES + AHEAD_BYTES);
            add_group(sums, blocks + g * BLOCK_BYTES, scales + g, values + g * planes * PLANE, factors + g, bytes,
                      tokens, planes);
        }
        if (rest) {
            uint8_t last[GROUP * BLOCK_BYTES] = {0}, exponents[GROUP] = {0};
            memcpy(last, blocks + whole * BLOCK_BYTES, (size_t)(rest * BLOCK_BYTES));
            memcpy(exponents, scales + whole, (size_t)rest);
            add_group(sums, last, exponents, values + whole * planes * PLANE, factors + whole, bytes, tokens, planes);
        }
        for (int t = 0; t < tokens; t++) to[t * rows + row] = vaddvq_f32(sums[t]);
    }
}

INLINE void all_dots(float *to, const uint8_t *blocks, const uint8_t *scales, int64_t rows, const void *packed,
                     int64_t n, int64_t tokens, const int planes) {
    const int64_t bytes = padded_blocks(n) * (planes * PLANE + (int64_t)sizeof(float));
    for (; tokens > 0; tokens -= MANY) {
        switch (tokens) {
            case 1: dots_of_some(to, blocks, scales, rows, packed, n, 1, planes); break;
            case 2: dots_of_some(to, blocks, scales, rows, packed, n, 2, planes); break;
            case 3: dots_of_some(to, blocks, scales, rows, packed, n, 3, planes); break;
            default: dots_of_some(to, blocks, scales, rows, packed, n, MANY, planes); break;
        }
        to += MANY * rows, packed = (const char *)packed + MANY * bytes;
    }
}

/* 4 rows by one token and block: a lane is a row. */
INLINE float32x4_t multiply_rows(const Weights *weights, const int8_t *x, float factor, const int planes) {
    int32x4_t parts[LANES_OF_ROWS];
    for (int i = 0; i < LANES_OF_ROWS; i++) parts[i] = multiply_block(weights[i], x, planes);
    return vmulq_n_f32(vcvtq_f32_s32(sums_of_four(parts)), factor);
}

INLINE void all_tiles(float *sums, const uint8_t *blocks, const uint8_t *scales, int64_t n, const void *packed,
                      int64_t tokens, const int planes) {
    const int8_t *values = packed;
    const float *factors = (const float *)(const void *)(values + n * tokens * planes * PLANE);
    memset(sums, 0, (size_t)(tokens * TILE_ROWS) * sizeof *sums);
    for (int64_t row = 0; row < TILE_ROWS; row += LANES_OF_ROWS)
        for (int64_t g = 0; g < n; g++) {
            Weights weights[LANES_OF_ROWS];
            float32x4_t powers = unpack_rows(weights, blocks, scales, n, row, g);
            for (int64_t t = 0; t < tokens; t++) {
                float *to = sums + t * TILE_ROWS + row;
                const int8_t *x = values + (g * tokens + t) * planes * PLANE;
                vst1q_f32(to, vfmaq_f32(vld1q_f32(to), multiply_rows(weights, x, factors[g * tokens + t], planes),
                                        powers));
            }
        }
}

#define PRODUCTS(name, planes)                                                                                         \
    FUNCTION static void dots_##name(float *sums, const uint8_t *blocks, const uint8_t *scales, int64_t rows,          \
                                     const void *packed, int64_t n, int64_t tokens) {                                  \
        all_dots(sums, blocks, scales, rows, packed, n, tokens, planes);                                               \
    }                                                                                                                  \
    FUNCTION static void tile_##name(float *sums, const uint8_t *blocks, const uint8_t *scales, int64_t n,             \
                                     const void *packed, int64_t tokens) {                                             \
        all_tiles(sums, blocks, scales, n, packed, tokens, planes);                                                    \
    }

PRODUCTS(int8, PLANES_INT8)
PRODUCTS(int16, PLANES_INT16)
