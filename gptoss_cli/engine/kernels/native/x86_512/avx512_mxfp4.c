/* Products of MXFP4 rows with quantized activations in AVX-512 VNNI.

   A vector is 4 blocks of one row: 64 bytes, whose low nibbles are the even elements and whose high nibbles the odd
   ones. vpdpbusd needs an unsigned first factor: doubled weights plus WEIGHT_OFFSET. The accumulators start at minus
   what the offset adds. int16 activations are two planes of signed bytes, 256 * high + low.

   Four rows use each vector of activations together. This is not to save instructions: activations that are read again
   for every row compete with the weights that stream through the L1 cache, and memory then idles. */
#include "avx512.h"

#ifdef HAS_AVX512

/* Blocks in a vector, vectors in a step, and the rows and tokens that are multiplied together. */
enum { VECTOR_BLOCKS = 4, STEP_VECTORS = 4, STEP_BLOCKS = VECTOR_BLOCKS * STEP_VECTORS, ROWS = 4, TOKENS = 4 };

/* The packed activations for one vector of weights, a cache line each. int8 has only the low plane.

      | high, even | high, odd | low, even | low, odd | 16 offsets | 16 factors, 4 times one for each block |
*/
enum { INT16_PLANES = 2, INT8_PLANES = 1 };
#define VECTOR_LINES(planes) (2 * (planes) + 2)
#define BLOCK_BYTES_PACKED(planes) (VECTOR_LINES(planes) * LINE / VECTOR_BLOCKS)

_Static_assert(BLOCK_BYTES_PACKED(INT16_PLANES) == AVX512_INT16_BYTES, "");
_Static_assert(BLOCK_BYTES_PACKED(INT8_PLANES) == AVX512_INT8_BYTES, "");

AVX512_INLINE void pack_block(char *vector, int64_t index, const float *x, float limit, const int planes) {
    QuantizedBlock block = quantize_block(x, limit);
    Planes parts = split(block.values);
    __m128i *to = (__m128i *)vector + index; /* each line holds 4 blocks of 16 bytes */
    enum { NEXT = LINE / 16 };
    if (planes == INT16_PLANES) {
        _mm_storeu_si128(to, _mm512_cvtepi32_epi8(parts.high));
        _mm_storeu_si128(to + NEXT, _mm512_cvtepi32_epi8(_mm512_srli_epi32(parts.high, 16)));
        to += 2 * NEXT;
    }
    _mm_storeu_si128(to, _mm512_cvtepi32_epi8(parts.low));
    _mm_storeu_si128(to + NEXT, _mm512_cvtepi32_epi8(_mm512_srli_epi32(parts.low, 16)));
    /* The sum of each 8 values, in all 4 lanes of a quarter; one lane of each quarter is kept. */
    __m512i sums = _mm512_madd_epi16(block.values, _mm512_set1_epi16(-WEIGHT_OFFSET));
    sums = _mm512_add_epi32(sums, _mm512_shuffle_epi32(sums, _MM_PERM_CDAB));
    sums = _mm512_add_epi32(sums, _mm512_shuffle_epi32(sums, _MM_PERM_BADC));
    _mm_storeu_si128(to + 2 * NEXT, _mm512_castsi512_si128(_mm512_maskz_compress_epi32(0x1111, sums)));
    _mm_storeu_ps((float *)(to + 3 * NEXT), _mm_set1_ps(block.factor * 0.5f));
}

AVX512_INLINE void pack(void *packed, const float *x, int64_t blocks, float limit, const int planes) {
    const int64_t bytes = VECTOR_LINES(planes) * LINE;
    int64_t whole = blocks / VECTOR_BLOCKS * VECTOR_BLOCKS, all = padded_blocks(blocks);
    char *rest = (char *)packed + whole / VECTOR_BLOCKS * bytes;
    memset(rest, 0, (size_t)((all - whole) / VECTOR_BLOCKS * bytes));
    for (int64_t g = 0; g < blocks; g++)
        pack_block((char *)packed + g / VECTOR_BLOCKS * bytes, g % VECTOR_BLOCKS, x + g * BLOCK, limit, planes);
}

AVX512 void gptoss_avx512_pack_dots_int16(void *packed, const float *x, int64_t blocks) {
    pack(packed, x, blocks, MOST_INT16, INT16_PLANES);
}

AVX512 void gptoss_avx512_pack_dots_int8(void *packed, const float *x, int64_t blocks) {
    pack(packed, x, blocks, MOST_INT8, INT8_PLANES);
}

/* Multiply a vector of weights by its activations: 4 sums for each block, times the factor of the block. An integer sum
   is below 2^24 and therefore exact in fp32. */
AVX512_INLINE __m512 multiply(__m512i evens, __m512i odds, const char *x, const int planes) {
    const char *low = x + (planes - 1) * 2 * LINE;
    __m512i sum = _mm512_dpbusd_epi32(_mm512_load_si512(low + 2 * LINE), evens, _mm512_load_si512(low));
    sum = _mm512_dpbusd_epi32(sum, odds, _mm512_load_si512(low + LINE));
    if (planes == INT16_PLANES) {
        __m512i high = _mm512_dpbusd_epi32(_mm512_setzero_si512(), evens, _mm512_load_si512(x));
        high = _mm512_dpbusd_epi32(high, odds, _mm512_load_si512(x + LINE));
        sum = _mm512_add_epi32(sum, _mm512_slli_epi32(high, 8));
    }
    return _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_load_ps(low + 3 * LINE));
}

/* Doubled E2M1 values plus WEIGHT_OFFSET, by nibble. vpermb uses 6 bits of each index byte: the table is repeated for
   the other two bits, so that nibbles need no mask. */
AVX512_INLINE __m512i weight_table(void) {
    __m128i values = _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0);
    return _mm512_broadcast_i32x4(values);
}

/* Add a step of some rows for some tokens: STEP_BLOCKS blocks, or the `left` ones if `is_last`. Sums are multiplied by
   the factor first and then by the power of two, because the product of these two could overflow or underflow. */
AVX512_INLINE void add_step(__m512 sums[ROWS][TOKENS], Lines lines[ROWS], const uint8_t *scales, int64_t n,
                            int64_t left, const char *packed, int64_t token_bytes, const int rows, const int tokens,
                            const int planes, const int is_last) {
    const __m512i table = weight_table();
    const __m512i spread = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    __m512 powers[ROWS];
    for (int row = 0; row < rows; row++)
        powers[row] = powers_of_16(_mm_maskz_loadu_epi8((__mmask16)first_lanes(left, 16), scales + row * n));
    for (int v = 0; v < STEP_VECTORS; v++) {
        if (left <= v * VECTOR_BLOCKS) break;
        __m512i lanes = _mm512_add_epi32(spread, _mm512_set1_epi32(v * VECTOR_BLOCKS));
        for (int row = 0; row < rows; row++) {
            __m512i nibbles = is_last ? last_vector(&lines[row]) : next_vector(&lines[row]);
            __m512i evens = _mm512_permutexvar_epi8(nibbles, table);
            __m512i odds = _mm512_permutexvar_epi8(_mm512_srli_epi16(nibbles, 4), table);
            __m512 power = _mm512_permutexvar_ps(lanes, powers[row]);
            for (int t = 0; t < tokens; t++) {
                const char *x = packed + t * token_bytes + v * VECTOR_LINES(planes) * LINE;
                sums[row][t] = _mm512_fmadd_ps(multiply(evens, odds, x, planes), power, sums[row][t]);
            }
        }
    }
}

/* Prefetch the next group of rows in the order of addresses: read as separate streams, rows reach only four fifths of
   the bandwidth. Prefetching past the end of memory is harmless. */
AVX512_INLINE void prefetch_group(const uint8_t *blocks, const uint8_t *scales, int64_t step, const int rows) {
    for (int line = 0; line < STEP_VECTORS * rows; line++)
        _mm_prefetch((const char *)blocks + (step * STEP_VECTORS * rows + line) * LINE, _MM_HINT_T0);
    _mm_prefetch((const char *)scales + step * LINE, _MM_HINT_T0);
}

AVX512_INLINE void dots_of_some(float *to, int64_t stride, const uint8_t *blocks, const uint8_t *scales,
                                const char *packed, int64_t n, const int rows, const int tokens, const int planes) {
    const int64_t step_bytes = STEP_BLOCKS * BLOCK_BYTES_PACKED(planes);
    const int64_t token_bytes = padded_blocks(n) * BLOCK_BYTES_PACKED(planes);
    const uint8_t *next_blocks = blocks + rows * n * BLOCK_BYTES, *next_scales = scales + rows * n;
    int64_t g = 0, whole = n;
    Lines lines[ROWS];
    __m512 sums[ROWS][TOKENS];
    for (int row = 0; row < rows; row++) {
        lines[row] = lines_of(blocks + row * n * BLOCK_BYTES, n * BLOCK_BYTES);
        int64_t some = whole_vectors(&lines[row]) * VECTOR_BLOCKS;
        whole = some < whole ? some : whole;
        for (int t = 0; t < tokens; t++) sums[row][t] = _mm512_setzero_ps();
    }
    for (; g + STEP_BLOCKS <= whole; g += STEP_BLOCKS, packed += step_bytes) {
        prefetch_group(next_blocks, next_scales, g / STEP_BLOCKS, rows);
        add_step(sums, lines, scales + g, n, STEP_BLOCKS, packed, token_bytes, rows, tokens, planes, 0);
    }
    for (; g < n; g += STEP_BLOCKS, packed += step_bytes) {
        prefetch_group(next_blocks, next_scales, g / STEP_BLOCKS, rows);
        add_step(sums, lines, scales + g, n, n - g, packed, token_bytes, rows, tokens, planes, 1);
    }
    for (int row = 0; row < rows; row++)
        for (int t = 0; t < tokens; t++) to[t * stride + row] = _mm512_reduce_add_ps(sums[row][t]);
}

/* One token: 4 rows together, and the rest one by one. */
AVX512_INLINE void dots_of_one(float *sums, const uint8_t *blocks, const uint8_t *scales, int64_t rows,
                               const char *packed, int64_t n, const int planes) {
    int64_t row = 0;
    for (; row + ROWS <= rows; row += ROWS)
        dots_of_some(sums + row, rows, blocks + row * n * BLOCK_BYTES, scales + row * n, packed, n, ROWS, 1, planes);
    for (; row < rows; row++)
        dots_of_some(sums + row, rows, blocks + row * n * BLOCK_BYTES, scales + row * n, packed, n, 1, 1, planes);
}

/* `rows` rows for several tokens: they are unpacked once for up to 4 of these. */
AVX512_INLINE void dots_of_many(float *sums, int64_t stride, const uint8_t *blocks, const uint8_t *scales,
                                const char *packed, int64_t n, int64_t tokens, const int rows, const int planes) {
    const int64_t bytes = padded_blocks(n) * BLOCK_BYTES_PACKED(planes);
    for (int64_t t = 0; t < tokens; t += TOKENS, sums += TOKENS * stride, packed += TOKENS * bytes) {
        switch (tokens - t) {
            case 1: dots_of_some(sums, stride, blocks, scales, packed, n, rows, 1, planes); break;
            case 2: dots_of_some(sums, stride, blocks, scales, packed, n, rows, 2, planes); break;
            case 3: dots_of_some(sums, stride, blocks, scales, packed, n, rows, 3, planes); break;
            default: dots_of_some(sums, stride, blocks, scales, packed, n, rows, TOKENS, planes); break;
        }
    }
}

/* One token by 4 rows at a time, or several tokens by 2: there are 32 registers. */
AVX512_INLINE void dots(float *sums, const uint8_t *blocks, const uint8_t *scales, int64_t rows, const char *packed,
                        int64_t n, int64_t tokens, const int planes) {
    enum { FEW_ROWS = 2 };
    int64_t row = 0;
    if (tokens == 1) {
        dots_of_one(sums, blocks, scales, rows, packed, n, planes);
        return;
    }
    for (; row + FEW_ROWS <= rows; row += FEW_ROWS)
        dots_of_many(sums + row, rows, blocks + row * n * BLOCK_BYTES, scales + row * n, packed, n, tokens, FEW_ROWS,
                     planes);
    if (row < rows)
        dots_of_many(sums + row, rows, blocks + row * n * BLOCK_BYTES, scales + row * n, packed, n, tokens, 1, planes);
}

AVX512 void gptoss_avx512_dots_int16(float *sums, const uint8_t *blocks, const uint8_t *scales, int64_t rows,
                              const void *packed, int64_t n, int64_t tokens) {
    dots(sums, blocks, scales, rows, packed, n, tokens, INT16_PLANES);
}

AVX512 void gptoss_avx512_dots_int8(float *sums, const uint8_t *blocks, const uint8_t *scales, int64_t rows,
                             const void *packed, int64_t n, int64_t tokens) {
    dots(sums, blocks, scales, rows, packed, n, tokens, INT8_PLANES);
}

#else

typedef int gptoss_no_avx512_mxfp4;

#endif
