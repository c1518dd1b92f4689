/* Products of MXFP4 rows with float32 activations in AVX-512.

   A lane is a byte of a block: its low nibble is an even element and its high one the odd element after it. */
#include "avx512.h"

#ifdef HAS_AVX512

enum { ROWS = 4, STEP_BLOCKS = 16, HALF = BLOCK / 2 };

/* For each block the even elements and then the odd ones. */
AVX512 void gptoss_avx512_pack_dots_float32(void *packed, const float *x, int64_t blocks) {
    const __m512i evens = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odds = _mm512_add_epi32(evens, _mm512_set1_epi32(1));
    float *to = packed;
    for (int64_t g = 0; g < blocks; g++, x += BLOCK, to += BLOCK) {
        __m512 low = _mm512_loadu_ps(x), high = _mm512_loadu_ps(x + HALF);
        _mm512_store_ps(to, _mm512_permutex2var_ps(low, evens, high));
        _mm512_store_ps(to + HALF, _mm512_permutex2var_ps(low, odds, high));
    }
}

/* Add a block of some rows. vpermps uses only the low 4 bits of a lane, so that nibbles need no mask. */
AVX512_INLINE void add_block(__m512 sums[ROWS], const uint8_t *blocks, int64_t n, float powers[ROWS][STEP_BLOCKS],
                             int64_t index, const float *x, const int rows) {
    const __m512 values = _mm512_setr_ps(0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6);
    __m512 evens = _mm512_load_ps(x), odds = _mm512_load_ps(x + HALF);
    for (int row = 0; row < rows; row++) {
        __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(blocks + row * n * BLOCK_BYTES)));
        __m512 part = _mm512_mul_ps(_mm512_permutexvar_ps(bytes, values), evens);
        part = _mm512_fmadd_ps(_mm512_permutexvar_ps(_mm512_srli_epi32(bytes, 4), values), odds, part);
        sums[row] = _mm512_fmadd_ps(part, _mm512_set1_ps(powers[row][index]), sums[row]);
    }
}

AVX512_INLINE void dots_of_some(float *to, const uint8_t *blocks, const uint8_t *scales, const float *x, int64_t n,
                                const int rows) {
    _Alignas(LINE) float powers[ROWS][STEP_BLOCKS];
    const char *next = (const char *)(blocks + rows * n * BLOCK_BYTES);
    __m512 sums[ROWS];
    for (int row = 0; row < rows; row++) sums[row] = _mm512_setzero_ps();
    for (int64_t start = 0; start < n; start += STEP_BLOCKS) {
        int64_t count = n - start < STEP_BLOCKS ? n - start : STEP_BLOCKS;
        for (int row = 0; row < rows; row++) {
            __mmask16 known = (__mmask16)first_lanes(count, STEP_BLOCKS);
            __m128i bytes = _mm_maskz_loadu_epi8(known, scales + row * n + start);
            _mm512_store_ps(powers[row], powers_of_16(bytes));
        }
        for (int64_t g = 0; g < count; g++, x += BLOCK) {
            /* The next group of rows, in the order of its addresses. */
            if (g % ROWS == 0 || rows == ROWS) _mm_prefetch(next + ((start + g) * rows * BLOCK_BYTES), _MM_HINT_T0);
            add_block(sums, blocks + (start + g) * BLOCK_BYTES, n, powers, g, x, rows);
        }
    }
    for (int row = 0; row < rows; row++) to[row] = _mm512_reduce_add_ps(sums[row]);
}

AVX512 void gptoss_avx512_dots_float32(float *sums, const uint8_t *blocks, const uint8_t *scales, int64_t rows,
                                       const void *packed, int64_t n, int64_t tokens) {
    for (int64_t row = 0; row < rows; row += ROWS, blocks += ROWS * n * BLOCK_BYTES, scales += ROWS * n)
        for (int64_t t = 0; t < tokens; t++) {
            const float *x = (const float *)packed + t * padded_blocks(n) * BLOCK;
            float *to = sums + t * rows + row;
            switch (rows - row) {
                case 1: dots_of_some(to, blocks, scales, x, n, 1); break;
                case 2: dots_of_some(to, blocks, scales, x, n, 2); break;
                case 3: dots_of_some(to, blocks, scales, x, n, 3); break;
                default: dots_of_some(to, blocks, scales, x, n, ROWS); break;
            }
        }
}

#else

typedef int gptoss_no_avx512_float32;

#endif
