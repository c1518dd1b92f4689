/* Attention and SwiGLU in AVX-512: 16 floats at once. */
#include "avx512.h"

#ifdef HAS_AVX512

#include <math.h>

#define FUNCTION AVX512
#define INLINE AVX512_INLINE

enum { LANES = 16, BLOCK_ROWS = 8 };

typedef __m512 Vector;
typedef __m512i Integers;

INLINE Vector zeros(void) { return _mm512_setzero_ps(); }
INLINE Vector broadcast(float value) { return _mm512_set1_ps(value); }
INLINE Vector load_floats(const float *from) { return _mm512_loadu_ps(from); }
INLINE void store(float *to, Vector v) { _mm512_storeu_ps(to, v); }
INLINE Vector multiply_add(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
INLINE Vector add(Vector a, Vector b) { return _mm512_add_ps(a, b); }
INLINE Vector subtract(Vector a, Vector b) { return _mm512_sub_ps(a, b); }
INLINE Vector larger(Vector a, Vector b) { return _mm512_max_ps(a, b); }
INLINE Vector floats_of(Integers v) { return _mm512_castsi512_ps(v); }
INLINE Vector evens_of(Integers v) { return floats_of(_mm512_slli_epi32(v, 16)); }
INLINE Vector odds_of(Integers v) { return floats_of(_mm512_and_si512(v, _mm512_set1_epi32((int)0xFFFF0000u))); }
INLINE float largest_lane(Vector v) { return _mm512_reduce_max_ps(v); }
INLINE float sum_lanes(Vector v) { return _mm512_reduce_add_ps(v); }

/* `left` words or as many as there are lanes, and zeros. */
INLINE Integers load_words(const uint8_t *from, int64_t left) {
    if (left >= LANES) return _mm512_loadu_si512(from);
    return _mm512_maskz_loadu_epi32(left > 0 ? (__mmask16)((1u << left) - 1) : 0, from);
}

/* Even and odd elements -> the first half and the second. */
INLINE void interleave(Vector *evens, Vector *odds) {
    const Integers low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const Integers high = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    Vector first = _mm512_permutex2var_ps(*evens, low, *odds);
    *odds = _mm512_permutex2var_ps(*evens, high, *odds), *evens = first;
}

/* Word w of row r -> word r of row w: pairs, fours, and then the quarters. */
INLINE void transpose(Integers rows[LANES]) {
    Integers pairs[LANES], *made = pairs;
    for (int i = 0; i < LANES; i += 2) {
        pairs[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    for (int i = 0; i < LANES; i += 4) {
        rows[i] = _mm512_unpacklo_epi64(pairs[i], pairs[i + 2]);
        rows[i + 1] = _mm512_unpackhi_epi64(pairs[i], pairs[i + 2]);
        rows[i + 2] = _mm512_unpacklo_epi64(pairs[i + 1], pairs[i + 3]);
        rows[i + 3] = _mm512_unpackhi_epi64(pairs[i + 1], pairs[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        Integers a = _mm512_shuffle_i32x4(rows[i], rows[i + 4], 0x44);
        Integers b = _mm512_shuffle_i32x4(rows[i], rows[i + 4], 0xEE);
        Integers c = _mm512_shuffle_i32x4(rows[i + 8], rows[i + 12], 0x44);
        Integers d = _mm512_shuffle_i32x4(rows[i + 8], rows[i + 12], 0xEE);
        made[i] = _mm512_shuffle_i32x4(a, c, 0x88), made[i + 4] = _mm512_shuffle_i32x4(a, c, 0xDD);
        made[i + 8] = _mm512_shuffle_i32x4(b, d, 0x88), made[i + 12] = _mm512_shuffle_i32x4(b, d, 0xDD);
    }
    for (int i = 0; i < LANES; i++) rows[i] = made[i];
}

/* e^x for x <= 0, to two units in the last place: 2^n times a polynomial of the rest, |rest| <= ln(2) / 2. */
INLINE Vector exponential(Vector x) {
    Vector n = _mm512_roundscale_ps(_mm512_mul_ps(x, broadcast(1.44269504f)), _MM_FROUND_TO_NEAREST_INT);
    Vector r = _mm512_fnmadd_ps(n, broadcast(0.693145752f), x); /* ln(2) in two parts */
    r = _mm512_fnmadd_ps(n, broadcast(1.42860682e-6f), r);
    const float inverse_factorials[] = {1 / 720.0f, 1 / 120.0f, 1 / 24.0f, 1 / 6.0f, 0.5f, 1.0f, 1.0f};
    Vector sum = broadcast(1 / 5040.0f);
    for (int i = 0; i < 7; i++) sum = multiply_add(sum, r, broadcast(inverse_factorials[i]));
    /* Not less than -87, or not a number. */
    return _mm512_maskz_scalef_ps(_mm512_cmp_ps_mask(x, broadcast(-87.0f), _CMP_NLT_UQ), sum, n);
}

INLINE Vector smaller(Vector a, Vector b) { return _mm512_min_ps(a, b); }
INLINE Vector divide(Vector a, Vector b) { return _mm512_div_ps(a, b); }

INLINE Vector select_negative(Vector x, Vector a, Vector b) {
    return _mm512_mask_blend_ps(_mm512_movepi32_mask(_mm512_castps_si512(x)), b, a);
}

/* 2 * LANES floats -> the even ones and the odd ones. */
INLINE void deinterleave(Vector *evens, Vector *odds, const float *from) {
    const Integers even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    Vector first = load_floats(from), second = load_floats(from + LANES);
    *evens = _mm512_permutex2var_ps(first, even, second);
    *odds = _mm512_permutex2var_ps(first, _mm512_add_epi32(even, _mm512_set1_epi32(1)), second);
}

#include "../attention_lanes.h"
#include "../swiglu_lanes.h"

const AttentionKernels gptoss_avx512_attention = {transpose_keys, attend_chunk};

void gptoss_avx512_swiglu(float *hidden, const float *pairs, int64_t n, float limit) {
    swiglu(hidden, pairs, n, limit);
}

#else

typedef int gptoss_no_avx512_vectors;

#endif
