/* Products with one dense row, int8 or bf16, in AVX-512.

   One row at a time: measured, a single stream of memory is faster here than several rows that share activations. */
#include "avx512.h"

#ifdef HAS_AVX512

/* How far ahead of their use weights are prefetched. */
enum { DENSE_AHEAD_BYTES = 2048, FACTORS_AHEAD_BYTES = 256 };

/* A vector is 2 blocks of int8 weights, a step is 16 blocks, as many as there are factors in a vector. Packed
   activations of a step are lines: for each vector high bytes and low bytes of 256 * high + low = x + X_OFFSET, and
   then 16 factors. They are kept small: what is read again for every row competes with the incoming weights for the L1
   cache. */
enum { VECTOR_BLOCKS = 2, STEP_BLOCKS = 16, STEP_VECTORS = 8, STEP_BYTES = (2 * STEP_VECTORS + 1) * LINE };
enum { X_OFFSET = 32768 };

AVX512 void gptoss_avx512_pack_int8(void *packed, const float *x, int64_t n) {
    memset(packed, 0, (size_t)(padded_blocks(n) / STEP_BLOCKS * STEP_BYTES));
    for (int64_t g = 0; g < n; g++) {
        QuantizedBlock block = quantize_block(x + g * BLOCK, MOST_INT16);
        __m512i bytes = _mm512_xor_si512(block.values, _mm512_set1_epi16(-X_OFFSET)); /* adds it */
        char *step = (char *)packed + g / STEP_BLOCKS * STEP_BYTES;
        char *to = step + g % STEP_BLOCKS / VECTOR_BLOCKS * 2 * LINE + g % VECTOR_BLOCKS * BLOCK;
        _mm256_store_si256((__m256i *)to, _mm512_cvtepi16_epi8(_mm512_srli_epi16(bytes, 8)));
        _mm256_store_si256((__m256i *)(to + LINE), _mm512_cvtepi16_epi8(bytes));
        memcpy(step + 2 * STEP_VECTORS * LINE + g % STEP_BLOCKS * 4, &block.factor, sizeof block.factor);
    }
}

/* Add one vector of a step. The sum of integers is below 2^24 and therefore exact in fp32. */
AVX512_INLINE __m512 add_blocks(__m512 sum, __m512i weights, __m512 factors, const char *step, const int vector) {
    const __m512i spread = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
    const __m512i zero = _mm512_setzero_si512();
    const char *x = step + vector * 2 * LINE;
    __m512i high = _mm512_dpbusd_epi32(zero, _mm512_load_si512(x), weights);
    __m512i low = _mm512_dpbusd_epi32(zero, _mm512_load_si512(x + LINE), weights);
    __m512i offset = _mm512_dpbusd_epi32(zero, _mm512_set1_epi8(1), weights); /* times X_OFFSET, which is 128 * 256 */
    high = _mm512_sub_epi32(high, _mm512_slli_epi32(offset, 7));
    low = _mm512_add_epi32(low, _mm512_slli_epi32(high, 8));
    __m512i lanes = _mm512_add_epi32(spread, _mm512_set1_epi32(vector * VECTOR_BLOCKS));
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(low), _mm512_permutexvar_ps(lanes, factors), sum);
}

/* The factors of weights, of which `left` exist, times those of activations. */
AVX512_INLINE __m512 load_factors(const uint8_t *weight_factors, const char *step, int64_t left) {
    __m256i bits = _mm256_maskz_loadu_epi16((__mmask16)first_lanes(left, STEP_BLOCKS), weight_factors);
    __m512 factors = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
    return _mm512_mul_ps(factors, _mm512_load_ps(step + 2 * STEP_VECTORS * LINE));
}

AVX512 float gptoss_avx512_dot_int8(const int8_t *weights, const uint8_t *weight_factors, const void *packed,
                                    int64_t n) {
    Lines lines = lines_of(weights, n * BLOCK);
    __m512 even = _mm512_setzero_ps(), odd = _mm512_setzero_ps();
    const char *step = packed;
    int64_t vectors = (n + VECTOR_BLOCKS - 1) / VECTOR_BLOCKS, whole = whole_vectors(&lines), v = 0;
    for (; v + STEP_VECTORS <= whole; v += STEP_VECTORS, weight_factors += 2 * STEP_BLOCKS, step += STEP_BYTES) {
        __m512 factors = load_factors(weight_factors, step, STEP_BLOCKS);
        _mm_prefetch((const char *)weight_factors + FACTORS_AHEAD_BYTES, _MM_HINT_T0);
        for (int i = 0; i < STEP_VECTORS; i += 2) {
            _mm_prefetch((const char *)lines.next + DENSE_AHEAD_BYTES, _MM_HINT_T0);
            _mm_prefetch((const char *)lines.next + DENSE_AHEAD_BYTES + LINE, _MM_HINT_T0);
            even = add_blocks(even, next_vector(&lines), factors, step, i);
            odd = add_blocks(odd, next_vector(&lines), factors, step, i + 1);
        }
    }
    for (; v < vectors; weight_factors += 2 * STEP_BLOCKS, step += STEP_BYTES) {
        __m512 factors = load_factors(weight_factors, step, n - v * VECTOR_BLOCKS);
        for (int i = 0; i < STEP_VECTORS && v < vectors; i++, v++) {
            _mm_prefetch((const char *)lines.next + DENSE_AHEAD_BYTES, _MM_HINT_T0);
            even = add_blocks(even, v < whole ? next_vector(&lines) : last_vector(&lines), factors, step, i);
        }
    }
    return _mm512_reduce_add_ps(_mm512_add_ps(even, odd));
}

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
