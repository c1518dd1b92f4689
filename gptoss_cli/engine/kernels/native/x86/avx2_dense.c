/* Products with bf16, int8 and float32 rows in AVX2 and FMA. */
#include "avx2.h"

#ifdef HAS_AVX2

/* Tokens and rows that a tile of float32 takes at once, and tokens that all rows pass by before the next. */
enum { TOKENS = 4, ROWS = 3, NEAR_TOKENS = 12 };

/* Of each 16 elements the even ones and then the odd ones: the bf16 of a pair are then widened by a shift and a mask.
   */
AVX2 void gptoss_avx2_pack_bf16(void *to, const float *x, int64_t n) {
    float *packed = to;
    int64_t i = 0;
    for (; i + 16 <= n; i += 16)
        for (int64_t j = 0; j < 8; j++) {
            packed[i + j] = x[i + 2 * j];
            packed[i + 8 + j] = x[i + 2 * j + 1];
        }
    for (; i < n; i++) packed[i] = x[i];
}

AVX2 float gptoss_avx2_dot_bf16(const uint8_t *weights, const void *from, int64_t n) {
    const float *packed = from;
    const __m256i odd = _mm256_set1_epi32((int)0xFFFF0000u);
    __m256 sums[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
    int64_t i = 0;
    for (; i + 32 <= n; i += 32) {
        _mm_prefetch((const char *)weights + 2 * i + AHEAD_BYTES, _MM_HINT_T0);
        for (int half = 0; half < 2; half++) {
            __m256i pairs = load(weights + 2 * (i + 16 * half));
            const float *x = packed + i + 16 * half;
            __m256 evens = _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
            __m256 odds = _mm256_castsi256_ps(_mm256_and_si256(pairs, odd));
            sums[2 * half] = _mm256_fmadd_ps(evens, _mm256_loadu_ps(x), sums[2 * half]);
            sums[2 * half + 1] = _mm256_fmadd_ps(odds, _mm256_loadu_ps(x + 8), sums[2 * half + 1]);
        }
    }
    for (; i + 16 <= n; i += 16) {
        __m256i pairs = load(weights + 2 * i);
        __m256 evens = _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
        __m256 odds = _mm256_castsi256_ps(_mm256_and_si256(pairs, odd));
        sums[0] = _mm256_fmadd_ps(evens, _mm256_loadu_ps(packed + i), sums[0]);
        sums[1] = _mm256_fmadd_ps(odds, _mm256_loadu_ps(packed + i + 8), sums[1]);
    }
    float sum = sum_of(_mm256_add_ps(_mm256_add_ps(sums[0], sums[1]), _mm256_add_ps(sums[2], sums[3])));
    for (; i < n; i++) sum += load_bf16(weights, i) * packed[i];
    return sum;
}

/* 8 partial sums of a block, each below 4 * 127 * MOST_INT16. */
AVX2_INLINE __m256i multiply_int8(const int8_t *weights, const int16_t *values) {
    __m256i low = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)weights));
    __m256i high = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(weights + 16)));
    return _mm256_add_epi32(_mm256_madd_epi16(low, load(values)), _mm256_madd_epi16(high, load(values + 16)));
}

/* For 4 blocks, 4 sums of their lower halves and 4 of their upper ones. */
AVX2_INLINE __m256i multiply_int8_four(const int8_t *weights, const int16_t *values) {
    __m256i parts[4];
    for (int i = 0; i < 4; i++) parts[i] = multiply_int8(weights + i * BLOCK, values + i * BLOCK);
    return add_neighbours(add_neighbours(parts[0], parts[1]), add_neighbours(parts[2], parts[3]));
}

/* Values [padded, 32] in natural order, and then factors [padded]. */
AVX2 void gptoss_avx2_pack_int8(void *packed, const float *x, int64_t n) {
    int16_t *values = packed;
    float *factors = (float *)(values + padded_blocks(n) * BLOCK);
    for (int64_t g = 0; g < n; g++)
        factors[g] = gptoss_avx2_quantize_block(values + g * BLOCK, x + g * BLOCK, MOST_INT16);
}

AVX2 float gptoss_avx2_dot_int8(const int8_t *weights, const uint8_t *weight_factors, const void *packed, int64_t n) {
    const int16_t *values = packed;
    const float *factors = (const float *)(values + padded_blocks(n) * BLOCK);
    __m256 sums = _mm256_setzero_ps();
    int64_t g = 0;
    for (; g + GROUP <= n; g += GROUP) {
        const int8_t *at = weights + g * BLOCK;
        for (int line = 0; line < 4; line++) _mm_prefetch((const char *)at + AHEAD_BYTES + 64 * line, _MM_HINT_T0);
        __m256i first = multiply_int8_four(at, values + g * BLOCK);
        __m256i second = multiply_int8_four(at + 4 * BLOCK, values + (g + 4) * BLOCK);
        __m256i sum = _mm256_add_epi32(_mm256_permute2x128_si256(first, second, 0x20),
                                       _mm256_permute2x128_si256(first, second, 0x31));
        __m256i bits = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(weight_factors + 2 * g)));
        __m256 part = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), _mm256_loadu_ps(factors + g));
        sums = _mm256_fmadd_ps(part, _mm256_castsi256_ps(_mm256_slli_epi32(bits, 16)), sums);
    }
    for (; g < n; g++) {
        __m256i sum = multiply_int8(weights + g * BLOCK, values + g * BLOCK);
        __m256 part = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), _mm256_set1_ps(factors[g]));
        sums = _mm256_fmadd_ps(part, _mm256_set1_ps(load_bf16(weight_factors, g)), sums);
    }
    return sum_of(sums);
}

AVX2 void gptoss_avx2_widen_bf16(float *out, const uint8_t *weights, int64_t n) {
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256i bits = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(weights + 2 * i)));
        _mm256_storeu_ps(out + i, _mm256_castsi256_ps(_mm256_slli_epi32(bits, 16)));
    }
    for (; i < n; i++) out[i] = load_bf16(weights, i);
}

AVX2 void gptoss_avx2_widen_int8(float *out, const int8_t *weights, const uint8_t *factors, int64_t n) {
    for (int64_t i = 0; i < n * BLOCK; i += 8) {
        __m256i values = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(weights + i)));
        __m256 factor = _mm256_set1_ps(load_bf16(factors, i / BLOCK));
        _mm256_storeu_ps(out + i, _mm256_mul_ps(_mm256_cvtepi32_ps(values), factor));
    }
}

/* The sums of 4 vectors, added in the order of sum_of. */
AVX2_INLINE __m128 four_sums(const __m256 *v) {
    __m128 s[4];
    for (int i = 0; i < 4; i++) s[i] = _mm_add_ps(_mm256_castps256_ps128(v[i]), _mm256_extractf128_ps(v[i], 1));
    __m128 a = _mm_add_ps(_mm_unpacklo_ps(s[0], s[1]), _mm_unpackhi_ps(s[0], s[1]));
    __m128 b = _mm_add_ps(_mm_unpacklo_ps(s[2], s[3]), _mm_unpackhi_ps(s[2], s[3]));
    return _mm_add_ps(_mm_movelh_ps(a, b), _mm_movehl_ps(b, a));
}

AVX2_INLINE void multiply_floats(float *sums, const float *rows, const float *x, int64_t x_stride, int64_t n,
                                 const int tokens) {
    __m256 parts[ROWS][TOKENS];
    for (int row = 0; row < ROWS; row++)
        for (int t = 0; t < tokens; t++) parts[row][t] = _mm256_setzero_ps();
    for (int64_t i = 0; i < n; i += 8) {
        __m256 weights[ROWS];
        for (int row = 0; row < ROWS; row++) weights[row] = _mm256_loadu_ps(rows + row * STRIP_STRIDE + i);
        for (int t = 0; t < tokens; t++) {
            __m256 input = _mm256_loadu_ps(x + t * x_stride + i);
            for (int row = 0; row < ROWS; row++) parts[row][t] = _mm256_fmadd_ps(weights[row], input, parts[row][t]);
        }
    }
    for (int row = 0; row < ROWS; row++, sums += DENSE_TOKENS) {
        if (tokens == 4) {
            _mm_storeu_ps(sums, _mm_add_ps(_mm_loadu_ps(sums), four_sums(parts[row])));
        } else {
            for (int t = 0; t < tokens; t++) sums[t] += sum_of(parts[row][t]);
        }
    }
}

/* One token after the other, with zeros at the end. */
AVX2 void gptoss_avx2_pack_float(float *packed, const float *x, int64_t columns, int64_t padded, int64_t tokens) {
    for (int64_t t = 0; t < tokens; t++) {
        memcpy(packed + t * padded, x + t * columns, (size_t)columns * sizeof *x);
        memset(packed + t * padded + columns, 0, (size_t)(padded - columns) * sizeof *x);
    }
}

/* 3 rows by 4 tokens: 12 sums, 3 rows and an input fill the 16 registers. NEAR_TOKENS tokens stay in the nearest cache
   while all rows pass by. */
AVX2 void gptoss_avx2_tile_float(float *sums, const float *rows, const float *packed, int64_t padded, int64_t start,
                                 int64_t n, int64_t tokens) {
    for (int64_t near = 0; near < tokens; near += NEAR_TOKENS) {
        int64_t end = near + NEAR_TOKENS < tokens ? near + NEAR_TOKENS : tokens;
        for (int64_t row = 0; row < DENSE_ROWS; row += ROWS)
            for (int64_t t = near; t < end; t += TOKENS) {
                const float *some = rows + row * STRIP_STRIDE, *x = packed + t * padded + start;
                float *to = sums + row * DENSE_TOKENS + t;
                switch (end - t) {
                    case 1: multiply_floats(to, some, x, padded, n, 1); break;
                    case 2: multiply_floats(to, some, x, padded, n, 2); break;
                    case 3: multiply_floats(to, some, x, padded, n, 3); break;
                    default: multiply_floats(to, some, x, padded, n, TOKENS); break;
                }
            }
    }
}

#else

typedef int gptoss_no_avx2_dense;

#endif
