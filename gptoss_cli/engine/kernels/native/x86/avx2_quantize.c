/* Quantizes activations in AVX2: blocks of 32 floats to integers with one factor for each block. */
#include "avx2.h"

#ifdef HAS_AVX2

AVX2_INLINE float largest_of(__m256 v) {
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

/* See quantize_block in scalar.c. */
AVX2 float gptoss_avx2_quantize_block(int16_t *values, const float *x, float limit) {
    const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7FFFFFFF));
    __m256 most = _mm256_setzero_ps(), broken = _mm256_setzero_ps();
    for (int i = 0; i < BLOCK; i += 8) {
        __m256 part = _mm256_loadu_ps(x + i);
        most = _mm256_max_ps(_mm256_and_ps(part, magnitude), most);
        broken = _mm256_fmadd_ps(part, _mm256_setzero_ps(), broken);
    }
    float largest = largest_of(most), nan = sum_of(broken);
    float inverse = largest > 0 && nan == 0 ? limit / largest : 0;
    if (inverse > 3e38f) inverse = 0;
    for (int i = 0; i < BLOCK; i += 16) {
        __m256 scale = _mm256_set1_ps(inverse), nothing = _mm256_set1_ps(inverse == 0 ? 0.0f : 1.0f);
        __m256i low = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i), scale));
        __m256i high = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i + 8), scale));
        __m256i kept = _mm256_castps_si256(_mm256_cmp_ps(nothing, _mm256_setzero_ps(), _CMP_NEQ_OQ));
        __m256i both = _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xD8);
        _mm256_storeu_si256((__m256i *)(values + i), _mm256_and_si256(both, kept));
    }
    return largest / limit + nan;
}

#else

typedef int gptoss_no_avx2_quantize;

#endif
