/* Products of float32 rows with many tokens in AVX-512. A lane is a token, so that no sum is added up across lanes. */
#include "avx512.h"

#ifdef HAS_AVX512

enum { LANES = 16, HALVES = DENSE_TOKENS / LANES, ROWS = 12 };

_Static_assert(DENSE_ROWS % ROWS == 0, "rows are taken 12 at a time");

/* Transpose to [padded, DENSE_TOKENS], with zeros for missing columns and tokens. */
AVX512 void gptoss_avx512_pack_float(float *packed, const float *x, int64_t columns, int64_t padded, int64_t tokens) {
    const __m512i counting = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i at = _mm512_mullo_epi32(counting, _mm512_set1_epi32((int)columns));
    for (int half = 0; half < HALVES; half++) {
        __mmask16 known = (__mmask16)first_lanes(tokens - half * LANES, LANES);
        const float *from = x + half * LANES * columns;
        float *to = packed + half * LANES;
        for (int64_t i = 0; i < columns; i++, to += DENSE_TOKENS)
            _mm512_storeu_ps(to, _mm512_mask_i32gather_ps(_mm512_setzero_ps(), known, at, from + i, sizeof *x));
        for (int64_t i = columns; i < padded; i++, to += DENSE_TOKENS) _mm512_storeu_ps(to, _mm512_setzero_ps());
    }
}

/* 12 rows by 32 tokens: 24 sums, 2 inputs and a weight fill the registers. */
AVX512_INLINE void multiply(float *to, const float *rows, const float *x, int64_t n, const int halves) {
    __m512 sums[ROWS][HALVES];
    for (int row = 0; row < ROWS; row++)
        for (int half = 0; half < halves; half++) sums[row][half] = _mm512_setzero_ps();
    for (int64_t i = 0; i < n; i++, x += DENSE_TOKENS) {
        __m512 inputs[HALVES];
        for (int half = 0; half < halves; half++) inputs[half] = _mm512_loadu_ps(x + half * LANES);
        for (int row = 0; row < ROWS; row++) {
            __m512 weight = _mm512_set1_ps(rows[row * STRIP_STRIDE + i]);
            for (int half = 0; half < halves; half++)
                sums[row][half] = _mm512_fmadd_ps(weight, inputs[half], sums[row][half]);
        }
    }
    for (int row = 0; row < ROWS; row++)
        for (int half = 0; half < halves; half++) {
            float *sum = to + row * DENSE_TOKENS + half * LANES;
            _mm512_storeu_ps(sum, _mm512_add_ps(_mm512_loadu_ps(sum), sums[row][half]));
        }
}

AVX512 void gptoss_avx512_tile_float(float *sums, const float *rows, const float *packed, int64_t padded, int64_t start,
                                     int64_t n, int64_t tokens) {
    (void)padded;
    for (int row = 0; row < DENSE_ROWS; row += ROWS) {
        const float *some = rows + row * STRIP_STRIDE, *x = packed + start * DENSE_TOKENS;
        if (tokens <= LANES) {
            multiply(sums + row * DENSE_TOKENS, some, x, n, 1);
        } else {
            multiply(sums + row * DENSE_TOKENS, some, x, n, HALVES);
        }
    }
}

#else

typedef int gptoss_no_avx512_dense_tile;

#endif
