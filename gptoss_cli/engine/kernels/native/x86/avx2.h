/* Shared by the AVX2 files. Only these functions are compiled for AVX2, so that the library loads on every CPU. */
#ifndef AVX2_H
#define AVX2_H

#include "../gptoss.h"

#ifdef HAS_AVX2

#include <immintrin.h>

#define AVX2 __attribute__((target("avx2,fma")))
#define AVX2_INLINE static inline __attribute__((target("avx2,fma"), always_inline))

/* How far ahead of their use weights are prefetched, so that memory is never idle while a thread computes. */
enum { AHEAD_BYTES = 1536 };

/* Added to doubled weights, which makes them 0 to 24. */
enum { WEIGHT_OFFSET = 12 };

AVX2_INLINE __m256i load(const void *at) { return _mm256_loadu_si256((const __m256i *)at); }

/* The number of blocks that the MXFP4 kernels add up at a time. */
enum { GROUP = 8 };

static inline int64_t padded_blocks(int64_t n) { return (n + PADDED_BLOCKS - 1) / PADDED_BLOCKS * PADDED_BLOCKS; }

/* Twice the E2M1 values, by nibble. */
AVX2_INLINE __m256i doubled_values(void) {
    return _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12));
}

/* 2^(exponent - 127) of 8 lanes, NaN for 255. The largest of two integers repairs the subnormal 2^-127. */
AVX2_INLINE __m256 powers_of_two(__m256i scales) {
    __m256i bits = _mm256_slli_epi32(scales, 23);
    __m256i nan = _mm256_cmpeq_epi32(bits, _mm256_set1_epi32(0x7F800000));
    return _mm256_castsi256_ps(_mm256_or_si256(_mm256_max_epi32(bits, _mm256_set1_epi32(0x00400000)), nan));
}

AVX2_INLINE float sum_of(__m256 v) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

/* a0 + a1, a2 + a3, b0 + b1, b2 + b3 in each half. */
AVX2_INLINE __m256i add_neighbours(__m256i a, __m256i b) {
    __m256 x = _mm256_castsi256_ps(a), y = _mm256_castsi256_ps(b);
    return _mm256_add_epi32(_mm256_castps_si256(_mm256_shuffle_ps(x, y, 0x88)),
                            _mm256_castps_si256(_mm256_shuffle_ps(x, y, 0xDD)));
}

/* One block of 8 rows, `stride` bytes apart, as its 4 words of 4 bytes: a lane is a row. */
AVX2_INLINE void transpose_block(__m256i words[4], const uint8_t *blocks, int64_t stride) {
    __m256i rows[4];
    for (int i = 0; i < 4; i++) {
        __m128i first = _mm_loadu_si128((const __m128i *)(blocks + i * stride));
        __m128i second = _mm_loadu_si128((const __m128i *)(blocks + (i + 4) * stride));
        rows[i] = _mm256_inserti128_si256(_mm256_castsi128_si256(first), second, 1);
    }
    __m256i a = _mm256_unpacklo_epi32(rows[0], rows[1]), b = _mm256_unpacklo_epi32(rows[2], rows[3]);
    __m256i c = _mm256_unpackhi_epi32(rows[0], rows[1]), d = _mm256_unpackhi_epi32(rows[2], rows[3]);
    words[0] = _mm256_unpacklo_epi64(a, b), words[1] = _mm256_unpackhi_epi64(a, b);
    words[2] = _mm256_unpacklo_epi64(c, d), words[3] = _mm256_unpackhi_epi64(c, d);
}

/* Quantize a block to integers up to `limit` in magnitude; returns their factor. */
float gptoss_avx2_quantize_block(int16_t *values, const float *x, float limit);
void gptoss_avx2_pack_bf16(void *packed, const float *x, int64_t n);
float gptoss_avx2_dot_bf16(const uint8_t *weights, const void *packed, int64_t n);
void gptoss_avx2_pack_int8(void *packed, const float *x, int64_t n);
float gptoss_avx2_dot_int8(const int8_t *weights, const uint8_t *weight_factors, const void *packed, int64_t n);
void gptoss_avx2_widen_bf16(float *out, const uint8_t *weights, int64_t n);
void gptoss_avx2_widen_int8(float *out, const int8_t *weights, const uint8_t *factors, int64_t n);
void gptoss_avx2_pack_float(float *packed, const float *x, int64_t columns, int64_t padded, int64_t tokens);
void gptoss_avx2_tile_float(float *sums, const float *rows, const float *packed, int64_t padded, int64_t start,
                            int64_t n, int64_t tokens);
void gptoss_avx2_pack_tile(void *packed, const float *x, int64_t blocks, int64_t token, int64_t tokens);
void gptoss_avx2_tile(float *sums, const uint8_t *blocks, const uint8_t *scales, int64_t n, const void *packed,
                      int64_t tokens);
void gptoss_avx2_swiglu(float *hidden, const float *pairs, int64_t n, float limit);

extern const Mxfp4Kernels gptoss_avx2_int16, gptoss_avx2_int8, gptoss_avx2_float32;
extern const AttentionKernels gptoss_avx2_attention;

#endif

#endif
