/* Tiles of MXFP4 rows with I8MM: an instruction multiplies 2 rows by 2 tokens, 8 elements of each. */
#include "neon.h"

#ifdef HAS_I8MM

#define INLINE static inline __attribute__((always_inline)) I8MM

/* 32 elements of two rows, or of two tokens, in four steps of 8: | first, 8 bytes | second, 8 bytes |. */
typedef struct {
    int8x16_t steps[4];
} Pair;

INLINE Pair pair_of(int8x16_t first_evens, int8x16_t first_odds, int8x16_t second_evens, int8x16_t second_odds) {
    int64x2_t a = vreinterpretq_s64_s8(first_evens), b = vreinterpretq_s64_s8(second_evens);
    int64x2_t c = vreinterpretq_s64_s8(first_odds), d = vreinterpretq_s64_s8(second_odds);
    return (Pair){{vreinterpretq_s8_s64(vzip1q_s64(a, b)), vreinterpretq_s8_s64(vzip2q_s64(a, b)),
                   vreinterpretq_s8_s64(vzip1q_s64(c, d)), vreinterpretq_s8_s64(vzip2q_s64(c, d))}};
}

/* Sums of row 0 by token 0, row 0 by token 1, row 1 by token 0, row 1 by token 1. */
INLINE int32x4_t multiply_pairs(int32x4_t sums, const Pair *rows, const Pair *tokens) {
    for (int i = 0; i < 4; i++) sums = vmmlaq_s32(sums, rows->steps[i], tokens->steps[i]);
    return sums;
}

/* One plane of two tokens. */
INLINE Pair load_tokens(const int8_t *first, const int8_t *second) {
    return pair_of(vld1q_s8(first), vld1q_s8(first + 16), vld1q_s8(second), vld1q_s8(second + 16));
}

/* 4 rows by 2 tokens and a block -> a vector for each token, in which a lane is a row. */
INLINE void multiply_tokens(int32x4_t sums[2], const Pair rows[2], const int8_t *first, const int8_t *second,
                            const int planes) {
    int32x4_t parts[2] = {vdupq_n_s32(0), vdupq_n_s32(0)};
    for (int plane = 0; plane < planes; plane++) {
        Pair tokens = load_tokens(first + plane * PLANE, second + plane * PLANE);
        for (int i = 0; i < 2; i++) parts[i] = multiply_pairs(vshlq_n_s32(parts[i], 8), &rows[i], &tokens);
    }
    sums[0] = vuzp1q_s32(parts[0], parts[1]), sums[1] = vuzp2q_s32(parts[0], parts[1]);
}

INLINE void add_to(float *to, int32x4_t sums, float factor, float32x4_t powers) {
    vst1q_f32(to, vfmaq_f32(vld1q_f32(to), vmulq_n_f32(vcvtq_f32_s32(sums), factor), powers));
}

INLINE void tile(float *sums, const uint8_t *blocks, const uint8_t *scales, int64_t n, const void *packed,
                 int64_t tokens, const int planes) {
    const int8_t *values = packed;
    const float *factors = (const float *)(const void *)(values + n * tokens * planes * PLANE);
    memset(sums, 0, (size_t)(tokens * TILE_ROWS) * sizeof *sums);
    for (int64_t row = 0; row < TILE_ROWS; row += LANES_OF_ROWS)
        for (int64_t g = 0; g < n; g++) {
            Weights w[LANES_OF_ROWS];
            float32x4_t powers = unpack_rows(w, blocks, scales, n, row, g);
            const Pair rows[2] = {pair_of(w[0].evens, w[0].odds, w[1].evens, w[1].odds),
                                  pair_of(w[2].evens, w[2].odds, w[3].evens, w[3].odds)};
            for (int64_t t = 0; t < tokens; t += 2) {
                /* The last token of an odd number is its own partner. */
                int64_t first = g * tokens + t, second = t + 1 < tokens ? first + 1 : first;
                int32x4_t parts[2];
                multiply_tokens(parts, rows, values + first * planes * PLANE, values + second * planes * PLANE, planes);
                add_to(sums + t * TILE_ROWS + row, parts[0], factors[first], powers);
                if (second > first) add_to(sums + (t + 1) * TILE_ROWS + row, parts[1], factors[second], powers);
            }
        }
}

I8MM static void tile_int8(float *sums, const uint8_t *blocks, const uint8_t *scales, int64_t n, const void *packed,
                           int64_t tokens) {
    tile(sums, blocks, scales, n, packed, tokens, PLANES_INT8);
}

I8MM static void tile_int16(float *sums, const uint8_t *blocks, const uint8_t *scales, int64_t n, const void *packed,
                            int64_t tokens) {
    tile(sums, blocks, scales, n, packed, tokens, PLANES_INT16);
}

const Mxfp4Kernels gptoss_i8mm_int16 = {
    PLANES_INT16 * PLANE + sizeof(float), TILE_ROWS,  gptoss_neon_pack_mxfp4_int16, gptoss_dotprod_dots_int16,
    gptoss_neon_pack_tile_int16,          tile_int16,
};
const Mxfp4Kernels gptoss_i8mm_int8 = {
    PLANES_INT8 * PLANE + sizeof(float), TILE_ROWS, gptoss_neon_pack_mxfp4_int8, gptoss_dotprod_dots_int8,
    gptoss_neon_pack_tile_int8,          tile_int8,
};

#else

typedef int gptoss_no_i8mm;

#endif
