/* Products with one bf16 row in AVX-512 with BF16.

   One row at a time: measured, a single stream of memory is faster here than several rows that share activations. Rows
   of int8 are left to AVX2, which reads them from memory a quarter faster than a version with VNNI did. */
#include "avx512.h"

#ifdef HAS_AVX512

/* How far ahead of their use weights are prefetched. */
enum { DENSE_AHEAD_BYTES = 2048 };

/* Each x is exactly the sum of three bf16, 8 bits of its mantissa in each. 32 columns are packed as three lines. */
enum { PARTS = 3, COLUMNS = 32 };

AVX512 void gptoss_avx512_pack_bf16(void *packed, const float *x, int64_t n) {
    const __m512i upper = _mm512_set1_epi32((int)0xFFFF0000u);
    for (int64_t i = 0; i < n; i += 16) {
        char *to = (char *)packed + i / COLUMNS * PARTS * LINE + i % COLUMNS * 2;
        __m512 rest = _mm512_maskz_loadu_ps((__mmask16)first_lanes(n - i, 16), x + i);
        for (int part = 0; part < PARTS; part++, to += LINE) {
            __m512i bits = _mm512_and_si512(_mm512_castps_si512(rest), upper);
            _mm256_store_si256((__m256i *)to, _mm512_cvtepi32_epi16(_mm512_srli_epi32(bits, 16)));
            rest = _mm512_sub_ps(rest, _mm512_castsi512_ps(bits));
            if (i % COLUMNS == 0 && n - i <= 16) _mm256_store_si256((__m256i *)(to + 32), _mm256_setzero_si256());
        }
    }
}

AVX512_BF16_INLINE void add_columns(__m512 sums[PARTS], __m512i weights, const char *x) {
    for (int part = 0; part < PARTS; part++)
        sums[part] =
            _mm512_dpbf16_ps(sums[part], (__m512bh)weights, (__m512bh)_mm512_load_si512(x + part * LINE));
}

AVX512_BF16 float gptoss_avx512_dot_bf16(const uint8_t *weights, const void *packed, int64_t n) {
    Lines lines = lines_of(weights, 2 * n);
    __m512 sums[2][PARTS];
    const char *x = packed;
    int64_t vectors = (n + COLUMNS - 1) / COLUMNS, whole = whole_vectors(&lines) / 2 * 2;
    for (int part = 0; part < PARTS; part++) sums[0][part] = sums[1][part] = _mm512_setzero_ps();
    for (int64_t v = 0; v < whole; v += 2, x += 2 * PARTS * LINE)
        for (int half = 0; half < 2; half++) {
            _mm_prefetch((const char *)lines.next + DENSE_AHEAD_BYTES, _MM_HINT_T0);
            add_columns(sums[half], next_vector(&lines), x + half * PARTS * LINE);
        }
    for (int64_t v = whole; v < vectors; v++, x += PARTS * LINE) {
        _mm_prefetch((const char *)lines.next + DENSE_AHEAD_BYTES, _MM_HINT_T0);
        add_columns(sums[0], last_vector(&lines), x);
    }
    /* The small parts first. */
    __m512 sum = _mm512_add_ps(sums[0][2], sums[1][2]);
    for (int part = 1; part >= 0; part--) sum = _mm512_add_ps(sum, _mm512_add_ps(sums[0][part], sums[1][part]));
    return _mm512_reduce_add_ps(sum);
}

/* Of each 32 columns the even ones and then the odd ones, with zeros past the last. */
void gptoss_avx512_pack_few(float *packed, const float *x, int64_t n) {
    for (int64_t i = 0; i < n; i += COLUMNS)
        for (int64_t j = 0; j < COLUMNS; j++) {
            int64_t from = i + j % (COLUMNS / 2) * 2 + j / (COLUMNS / 2);
            packed[i + j] = from < n ? x[from] : 0;
        }
}

/* So many sums, of even and of odd columns, fit in the registers. */
enum { ROWS = 2, TOKENS = 4 };

/* `rows` by `tokens`, which are constants where it is called. The weights of a row are widened once for all tokens: a
   bf16 is the upper half of a float. Rows share what is read of the tokens, which are more than the first cache holds.
   */
AVX512_INLINE void dots_together(float *sums, int64_t stride, const uint8_t *weights, const float *packed, int64_t n,
                                 int rows, int tokens) {
    const __m512i upper = _mm512_set1_epi32((int)0xFFFF0000u);
    int64_t padded = (n + COLUMNS - 1) / COLUMNS * COLUMNS;
    __m512 evens[ROWS][TOKENS], odds[ROWS][TOKENS];
    for (int r = 0; r < rows; r++)
        for (int t = 0; t < tokens; t++) evens[r][t] = odds[r][t] = _mm512_setzero_ps();
    for (int64_t i = 0; i < n; i += COLUMNS) {
        __m512 even[ROWS], odd[ROWS];
        for (int r = 0; r < rows; r++) {
            const uint8_t *from = weights + 2 * (r * n + i);
            __m512i pairs = n - i >= COLUMNS
                                ? _mm512_loadu_si512(from)
                                : _mm512_maskz_loadu_epi8((__mmask64)first_lanes(2 * (n - i), LINE), from);
            _mm_prefetch((const char *)from + DENSE_AHEAD_BYTES, _MM_HINT_T0);
            even[r] = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
            odd[r] = _mm512_castsi512_ps(_mm512_and_si512(pairs, upper));
        }
        for (int t = 0; t < tokens; t++) {
            const float *x = packed + t * padded + i;
            __m512 x_even = _mm512_loadu_ps(x), x_odd = _mm512_loadu_ps(x + COLUMNS / 2);
            for (int r = 0; r < rows; r++) {
                evens[r][t] = _mm512_fmadd_ps(even[r], x_even, evens[r][t]);
                odds[r][t] = _mm512_fmadd_ps(odd[r], x_odd, odds[r][t]);
            }
        }
    }
    for (int r = 0; r < rows; r++)
        for (int t = 0; t < tokens; t++)
            sums[r * stride + t] = _mm512_reduce_add_ps(_mm512_add_ps(evens[r][t], odds[r][t]));
}

AVX512_INLINE void dots_of_rows(float *sums, const uint8_t *weights, const float *packed, int64_t n, int64_t tokens,
                                int rows) {
    int64_t padded = (n + COLUMNS - 1) / COLUMNS * COLUMNS, t = 0;
    for (; t + TOKENS <= tokens; t += TOKENS)
        dots_together(sums + t, tokens, weights, packed + t * padded, n, rows, TOKENS);
    switch (tokens - t) {
    case 3: dots_together(sums + t, tokens, weights, packed + t * padded, n, rows, 3); break;
    case 2: dots_together(sums + t, tokens, weights, packed + t * padded, n, rows, 2); break;
    case 1: dots_together(sums + t, tokens, weights, packed + t * padded, n, rows, 1); break;
    default: break;
    }
}

AVX512 void gptoss_avx512_dots_few(float *sums, const uint8_t *weights, int64_t rows, const float *packed, int64_t n,
                                   int64_t tokens) {
    int64_t row = 0;
    for (; row + ROWS <= rows; row += ROWS)
        dots_of_rows(sums + row * tokens, weights + 2 * row * n, packed, n, tokens, ROWS);
    if (row < rows) dots_of_rows(sums + row * tokens, weights + 2 * row * n, packed, n, tokens, 1);
}

#else

typedef int gptoss_no_avx512_dense;

#endif
