/* Scores, softmax and weighted values of attention in AVX2 and FMA. */
#include "avx2.h"

#ifdef HAS_AVX2

#include <math.h>

AVX2 float gptoss_avx2_scores(float *out, const float *q, const float *keys, int64_t count, int64_t d) {
    float most = -INFINITY;
    for (int64_t i = 0; i < count; i++) {
        __m256 sum = _mm256_setzero_ps(), other = _mm256_setzero_ps();
        const float *key = keys + i * d;
        int64_t j = 0;
        for (; j + 16 <= d; j += 16) {
            sum = _mm256_fmadd_ps(_mm256_loadu_ps(q + j), _mm256_loadu_ps(key + j), sum);
            other = _mm256_fmadd_ps(_mm256_loadu_ps(q + j + 8), _mm256_loadu_ps(key + j + 8), other);
        }
        if (j < d) sum = _mm256_fmadd_ps(_mm256_loadu_ps(q + j), _mm256_loadu_ps(key + j), sum);
        out[i] = sum_of(_mm256_add_ps(sum, other));
        if (out[i] > most) most = out[i];
    }
    return most;
}

/* e^x for x <= 0, to two units in the last place: 2^n times a polynomial of the rest, |rest| <= ln(2) / 2. */
AVX2_INLINE __m256 exponential(__m256 x) {
    __m256 nan = _mm256_cmp_ps(x, x, _CMP_UNORD_Q);
    __m256 bounded = _mm256_max_ps(_mm256_min_ps(x, _mm256_setzero_ps()), _mm256_set1_ps(-87.0f));
    __m256 n = _mm256_round_ps(_mm256_mul_ps(bounded, _mm256_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT);
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693145752f), bounded); /* ln(2) in two parts */
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(1.42860682e-6f), r);
    const float inverse_factorials[] = {1 / 720.0f, 1 / 120.0f, 1 / 24.0f, 1 / 6.0f, 0.5f, 1.0f, 1.0f};
    __m256 sum = _mm256_set1_ps(1 / 5040.0f);
    for (int i = 0; i < 7; i++) sum = _mm256_fmadd_ps(sum, r, _mm256_set1_ps(inverse_factorials[i]));
    __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    __m256 tiny = _mm256_cmp_ps(x, _mm256_set1_ps(-87.0f), _CMP_LT_OQ);
    __m256 result = _mm256_andnot_ps(tiny, _mm256_mul_ps(sum, _mm256_castsi256_ps(power)));
    return _mm256_blendv_ps(result, x, nan);
}

AVX2 float gptoss_avx2_exponentials(float *values, float most, int64_t count) {
    __m256 sum = _mm256_setzero_ps();
    for (int64_t i = 0; i < count; i += 8) {
        __m256 e = exponential(_mm256_sub_ps(_mm256_loadu_ps(values + i), _mm256_set1_ps(most)));
        _mm256_storeu_ps(values + i, e);
        sum = _mm256_add_ps(sum, e);
    }
    return sum_of(sum);
}

AVX2 void gptoss_avx2_accumulate(float *sums, const float *probabilities, const float *values, int64_t count, int64_t d) {
    int64_t j = 0;
    for (; j + 32 <= d; j += 32) {
        __m256 parts[4];
        for (int k = 0; k < 4; k++) parts[k] = _mm256_loadu_ps(sums + j + 8 * k);
        for (int64_t i = 0; i < count; i++)
            for (int k = 0; k < 4; k++)
                parts[k] = _mm256_fmadd_ps(_mm256_set1_ps(probabilities[i]), _mm256_loadu_ps(values + i * d + j + 8 * k),
                                           parts[k]);
        for (int k = 0; k < 4; k++) _mm256_storeu_ps(sums + j + 8 * k, parts[k]);
    }
    for (; j < d; j += 8) {
        __m256 part = _mm256_loadu_ps(sums + j);
        for (int64_t i = 0; i < count; i++)
            part = _mm256_fmadd_ps(_mm256_set1_ps(probabilities[i]), _mm256_loadu_ps(values + i * d + j), part);
        _mm256_storeu_ps(sums + j, part);
    }
}

#else

typedef int gptoss_no_avx2_attention;

#endif
