/* What the files in AVX2 share. Compiled for the functions here alone, so that the library loads everywhere. */
#ifndef AVX2_H
#define AVX2_H

#include <immintrin.h>

#include "gptoss.h"

#define AVX2 __attribute__((target("avx2,fma")))
#define AVX2_INLINE static inline __attribute__((target("avx2,fma"), always_inline))

AVX2_INLINE __m256i load(const void *at) { return _mm256_loadu_si256((const __m256i *)at); }

/* Twice the E2M1 values, by nibble. */
AVX2_INLINE __m256i doubled_values(void) {
    return _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12));
}

/* 2^(exponent - 127) of 8 lanes, NaN for 255. The largest of two integers repairs the subnormal 2^-127. */
AVX2_INLINE __m256 powers_of_two(__m256i exponents) {
    __m256i bits = _mm256_slli_epi32(exponents, 23);
    __m256i nan = _mm256_cmpeq_epi32(bits, _mm256_set1_epi32(0x7F800000));
    return _mm256_castsi256_ps(_mm256_or_si256(_mm256_max_epi32(bits, _mm256_set1_epi32(0x00400000)), nan));
}

/* One block of 8 rows, `stride` bytes apart -> its 4 words of 4 bytes: a lane is a row. */
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

float gptoss_avx2_quantize_block(int16_t *values, const float *x, float most);

void gptoss_avx2_tile(float *sums, const uint8_t *blocks, const uint8_t *exponents, int64_t n, const void *values,
                      const float *factors, int64_t tokens);

extern const Products gptoss_avx2_int8;

#endif
