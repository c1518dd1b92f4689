/* Products of 16 MXFP4 rows with many tokens in AVX2: integers within a block, fp32 between blocks.

   A lane is a row. A step multiplies two columns of 8 rows by the same two columns of one token, which is one vpmaddwd
   and one vpaddd for 16 products, twice what fp32 gives. */
#include "avx2.h"

#ifdef HAS_AVX2

enum { TILE_ROWS = 16, LANES = 8, HALVES = TILE_ROWS / LANES, PAIRS = BLOCK / 2, TOKENS = 6 };

/* One block of 8 rows: for each of its 16 bytes, the two weights of every row as a pair of int16 in the row's lane. */
AVX2_INLINE void unpack_half(int16_t panel[PAIRS][HALVES][2 * LANES], int half, const uint8_t *blocks, int64_t stride) {
    const __m256i low = _mm256_set1_epi8(15);
    __m256i words[4];
    transpose_block(words, blocks, stride);
    for (int word = 0; word < 4; word++) {
        __m256i evens = _mm256_shuffle_epi8(doubled_values(), _mm256_and_si256(words[word], low));
        __m256i odds = _mm256_shuffle_epi8(doubled_values(), _mm256_and_si256(_mm256_srli_epi16(words[word], 4), low));
        for (int byte = 0; byte < 4; byte++) {
            /* Byte `byte` of each lane to the top of its lower half (evens) and of its upper half (odds). */
            const __m256i lanes = _mm256_broadcastsi128_si256(_mm_setr_epi32(0, 4, 8, 12));
            __m256i at = _mm256_add_epi32(lanes, _mm256_set1_epi32(byte));
            __m256i to_lower = _mm256_or_si256(_mm256_slli_epi32(at, 8), _mm256_set1_epi32((int)0x80800080u));
            __m256i to_upper = _mm256_or_si256(_mm256_slli_epi32(at, 24), _mm256_set1_epi32(0x00808080));
            __m256i both = _mm256_or_si256(_mm256_shuffle_epi8(evens, to_lower), _mm256_shuffle_epi8(odds, to_upper));
            _mm256_store_si256((__m256i *)panel[4 * word + byte][half], _mm256_srai_epi16(both, 8));
        }
    }
}

/* Half of 2^(scale - 127), because the weights are doubled. */
AVX2_INLINE __m256 half_powers(const uint8_t *scales, int64_t stride) {
    int32_t lanes[LANES];
    for (int i = 0; i < LANES; i++) lanes[i] = scales[i * stride];
    return _mm256_mul_ps(powers_of_two(load(lanes)), _mm256_set1_ps(0.5f));
}

/* Inline asm: otherwise gcc hoists the multiplies of all tokens and spills, or copies each sum. */
AVX2_INLINE void add_in_place(__m256i *sum, __m256i x) {
    __asm__ volatile("vpaddd %1, %0, %0" : "+x"(*sum) : "x"(x));
}

AVX2_INLINE void multiply(float *sums, int16_t panel[PAIRS][HALVES][2 * LANES], const __m256 powers[HALVES],
                          const int16_t *values, const float *factors, const int tokens) {
    __m256i parts[TOKENS][HALVES];
    for (int t = 0; t < tokens; t++) parts[t][0] = parts[t][1] = _mm256_setzero_si256();
    for (int pair = 0; pair < PAIRS; pair++) {
        __m256i first = _mm256_load_si256((const __m256i *)panel[pair][0]);
        __m256i second = _mm256_load_si256((const __m256i *)panel[pair][1]);
        for (int t = 0; t < tokens; t++) {
            int32_t two;
            memcpy(&two, values + t * BLOCK + 2 * pair, sizeof two);
            __m256i x = _mm256_set1_epi32(two);
            add_in_place(&parts[t][0], _mm256_madd_epi16(first, x));
            add_in_place(&parts[t][1], _mm256_madd_epi16(second, x));
        }
    }
    for (int t = 0; t < tokens; t++)
        for (int half = 0; half < HALVES; half++) {
            float *sum = sums + t * TILE_ROWS + half * LANES;
            __m256 part = _mm256_mul_ps(_mm256_cvtepi32_ps(parts[t][half]), _mm256_set1_ps(factors[t]));
            _mm256_storeu_ps(sum, _mm256_fmadd_ps(part, powers[half], _mm256_loadu_ps(sum)));
        }
}

AVX2_INLINE void multiply_rest(float *sums, int16_t panel[PAIRS][HALVES][2 * LANES], const __m256 powers[HALVES],
                               const int16_t *values, const float *factors, int64_t tokens) {
    switch (tokens) {
        case 1: multiply(sums, panel, powers, values, factors, 1); break;
        case 2: multiply(sums, panel, powers, values, factors, 2); break;
        case 3: multiply(sums, panel, powers, values, factors, 3); break;
        case 4: multiply(sums, panel, powers, values, factors, 4); break;
        case 5: multiply(sums, panel, powers, values, factors, 5); break;
        default: break;
    }
}

/* values [blocks, tokens, 32] in natural order, and then factors [blocks, tokens]. */
AVX2 void gptoss_avx2_pack_tile(void *packed, const float *x, int64_t blocks, int64_t token, int64_t tokens) {
    int16_t *values = packed;
    float *factors = (float *)(values + blocks * tokens * BLOCK);
    for (int64_t g = 0, at = token; g < blocks; g++, at += tokens)
        factors[at] = gptoss_avx2_quantize_block(values + at * BLOCK, x + g * BLOCK, MOST_INT16);
}

AVX2 void gptoss_avx2_tile(float *sums, const uint8_t *blocks, const uint8_t *scales, int64_t n, const void *packed,
                           int64_t tokens) {
    const int16_t *values = packed;
    const float *factors = (const float *)(values + n * tokens * BLOCK);
    _Alignas(32) int16_t panel[PAIRS][HALVES][2 * LANES];
    memset(sums, 0, (size_t)tokens * TILE_ROWS * sizeof *sums);
    for (int64_t g = 0; g < n; g++) {
        __m256 powers[HALVES];
        for (int half = 0; half < HALVES; half++) {
            int64_t row = half * LANES * n;
            unpack_half(panel, half, blocks + (row + g) * BLOCK_BYTES, n * BLOCK_BYTES);
            powers[half] = half_powers(scales + row + g, n);
        }
        const int16_t *x = values + g * tokens * BLOCK;
        const float *f = factors + g * tokens;
        int64_t t = 0;
        for (; t + TOKENS <= tokens; t += TOKENS)
            multiply(sums + t * TILE_ROWS, panel, powers, x + t * BLOCK, f + t, TOKENS);
        multiply_rest(sums + t * TILE_ROWS, panel, powers, x + t * BLOCK, f + t, tokens - t);
    }
}

#else

typedef int gptoss_no_avx2_tile;

#endif
