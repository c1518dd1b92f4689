/* Attention and SwiGLU in AVX2 and FMA: 8 floats at once. */
#include "avx2.h"

#ifdef HAS_AVX2

#include <math.h>

#define FUNCTION AVX2
#define INLINE AVX2_INLINE

enum { LANES = 8, BLOCK_ROWS = 4 };

typedef __m256 Vector;
typedef __m256i Integers;

INLINE Vector zeros(void) { return _mm256_setzero_ps(); }
INLINE Vector broadcast(float value) { return _mm256_set1_ps(value); }
INLINE Vector load_floats(const float *from) { return _mm256_loadu_ps(from); }
INLINE void store(float *to, Vector v) { _mm256_storeu_ps(to, v); }
INLINE Vector multiply_add(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
INLINE Vector add(Vector a, Vector b) { return _mm256_add_ps(a, b); }
INLINE Vector subtract(Vector a, Vector b) { return _mm256_sub_ps(a, b); }
INLINE Vector larger(Vector a, Vector b) { return _mm256_max_ps(a, b); }
INLINE Vector floats_of(Integers v) { return _mm256_castsi256_ps(v); }
INLINE Vector evens_of(Integers v) { return floats_of(_mm256_slli_epi32(v, 16)); }
INLINE Vector odds_of(Integers v) { return floats_of(_mm256_and_si256(v, _mm256_set1_epi32((int)0xFFFF0000u))); }

/* `left` words or as many as there are lanes, and zeros. */
INLINE Integers load_words(const uint8_t *from, int64_t left) {
    if (left >= LANES) return _mm256_loadu_si256((const __m256i *)from);
    Integers lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_maskload_epi32((const int *)from, _mm256_cmpgt_epi32(_mm256_set1_epi32((int)left), lane));
}

INLINE float sum_lanes(Vector v) { return sum_of(v); }

INLINE float largest_lane(Vector v) {
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

/* Even and odd elements -> the first half and the second. */
INLINE void interleave(Vector *evens, Vector *odds) {
    Vector low = _mm256_unpacklo_ps(*evens, *odds), high = _mm256_unpackhi_ps(*evens, *odds);
    *evens = _mm256_permute2f128_ps(low, high, 0x20), *odds = _mm256_permute2f128_ps(low, high, 0x31);
}

/* Word w of row r -> word r of row w: pairs, fours, and then the halves. */
INLINE void transpose(Integers rows[LANES]) {
    Integers pairs[LANES];
    for (int i = 0; i < LANES; i += 2) {
        pairs[i] = _mm256_unpacklo_epi32(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm256_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    for (int i = 0; i < LANES; i += 4) {
        rows[i] = _mm256_unpacklo_epi64(pairs[i], pairs[i + 2]);
        rows[i + 1] = _mm256_unpackhi_epi64(pairs[i], pairs[i + 2]);
        rows[i + 2] = _mm256_unpacklo_epi64(pairs[i + 1], pairs[i + 3]);
        rows[i + 3] = _mm256_unpackhi_epi64(pairs[i + 1], pairs[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        Integers low = rows[i], high = rows[i + 4];
        rows[i] = _mm256_permute2x128_si256(low, high, 0x20);
        rows[i + 4] = _mm256_permute2x128_si256(low, high, 0x31);
    }
}

/* e^x for x <= 0, to two units in the last place: 2^n times a polynomial of the rest, |rest| <= ln(2) / 2. */
INLINE Vector exponential(Vector x) {
    Vector nan = _mm256_cmp_ps(x, x, _CMP_UNORD_Q);
    Vector bounded = _mm256_max_ps(_mm256_min_ps(x, zeros()), broadcast(-87.0f));
    Vector n = _mm256_round_ps(_mm256_mul_ps(bounded, broadcast(1.44269504f)), _MM_FROUND_TO_NEAREST_INT);
    Vector r = _mm256_fnmadd_ps(n, broadcast(0.693145752f), bounded); /* ln(2) in two parts */
    r = _mm256_fnmadd_ps(n, broadcast(1.42860682e-6f), r);
    const float inverse_factorials[] = {1 / 720.0f, 1 / 120.0f, 1 / 24.0f, 1 / 6.0f, 0.5f, 1.0f, 1.0f};
    Vector sum = broadcast(1 / 5040.0f);
    for (int i = 0; i < 7; i++) sum = _mm256_fmadd_ps(sum, r, broadcast(inverse_factorials[i]));
    Integers power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    Vector tiny = _mm256_cmp_ps(x, broadcast(-87.0f), _CMP_LT_OQ);
    Vector result = _mm256_andnot_ps(tiny, _mm256_mul_ps(sum, floats_of(power)));
    return _mm256_blendv_ps(result, x, nan);
}

INLINE Vector smaller(Vector a, Vector b) { return _mm256_min_ps(a, b); }
INLINE Vector divide(Vector a, Vector b) { return _mm256_div_ps(a, b); }
INLINE Vector select_negative(Vector x, Vector a, Vector b) { return _mm256_blendv_ps(b, a, x); }

/* 2 * LANES floats -> the even ones and the odd ones. */
INLINE void deinterleave(Vector *evens, Vector *odds, const float *from) {
    Vector first = load_floats(from), second = load_floats(from + LANES);
    Vector low = _mm256_permute2f128_ps(first, second, 0x20), high = _mm256_permute2f128_ps(first, second, 0x31);
    *evens = _mm256_shuffle_ps(low, high, 0x88), *odds = _mm256_shuffle_ps(low, high, 0xDD);
}

#include "../attention_lanes.h"
#include "../swiglu_lanes.h"

const AttentionKernels gptoss_avx2_attention = {transpose_keys, attend_chunk};

void gptoss_avx2_swiglu(float *hidden, const float *pairs, int64_t n, float limit) { swiglu(hidden, pairs, n, limit); }

#else

typedef int gptoss_no_avx2_vectors;

#endif
