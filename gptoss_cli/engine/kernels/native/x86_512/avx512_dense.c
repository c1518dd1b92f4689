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

#else

typedef int gptoss_no_avx512_dense;

#endif
