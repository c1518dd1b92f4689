/* Products of 32 MXFP4 rows with many tokens in AVX-512 VNNI: integers within a block, fp32 between blocks.

   A lane is a row. Rows are unpacked once, a strip of blocks at a time, into a panel that stays in the L1 cache while
   it is multiplied by all tokens. A step multiplies a few columns of 32 rows by those of one token: 2 columns of int16,
   or 4 of bytes with WEIGHT_OFFSET added to the weights, because vpdpbusd needs an unsigned first factor. */
#include "avx512.h"

#ifdef HAS_AVX512

enum { TILE_ROWS = AVX512_TILE_ROWS, LANES = 16, HALVES = TILE_ROWS / LANES, WORDS = 4, STRIP_BLOCKS = 10, TOKENS = 6 };
enum { INT16_STEPS = BLOCK / 2, INT8_STEPS = BLOCK / 4 };

/* Packed tokens are values [tokens, n, 32], then factors [tokens, n], and for int8 offsets [tokens, n]. int8 values are
   reordered: of each 8 first the even ones and then the odd ones. */
typedef struct {
    const char *values;
    const float *factors;
    const int32_t *offsets;
    int64_t n;
} Activations;

/* A strip of the rows: for each block `steps` vectors of each half, and the powers of two of its rows. */
typedef struct {
    _Alignas(LINE) char weights[STRIP_BLOCKS * INT16_STEPS * HALVES * LINE];
    _Alignas(LINE) float powers[STRIP_BLOCKS][TILE_ROWS];
} Panel;

AVX512 void gptoss_avx512_pack_tile_int16(void *packed, const float *x, int64_t blocks, int64_t token, int64_t tokens) {
    int16_t *values = (int16_t *)packed + token * blocks * BLOCK;
    float *factors = (float *)((int16_t *)packed + tokens * blocks * BLOCK) + token * blocks;
    for (int64_t g = 0; g < blocks; g++) {
        QuantizedBlock block = quantize_block(x + g * BLOCK, MOST_INT16);
        _mm512_storeu_si512(values + g * BLOCK, block.values);
        factors[g] = block.factor * 0.5f; /* weights are doubled */
    }
}

AVX512 void gptoss_avx512_pack_tile_int8(void *packed, const float *x, int64_t blocks, int64_t token, int64_t tokens) {
    int8_t *values = (int8_t *)packed + token * blocks * BLOCK;
    float *factors = (float *)((int8_t *)packed + tokens * blocks * BLOCK) + token * blocks;
    int32_t *offsets = (int32_t *)(factors + tokens * blocks);
    const __m256i order =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15));
    for (int64_t g = 0; g < blocks; g++) {
        QuantizedBlock block = quantize_block(x + g * BLOCK, MOST_INT8);
        __m256i bytes = _mm256_shuffle_epi8(_mm512_cvtepi16_epi8(block.values), order);
        _mm256_storeu_si256((__m256i *)(values + g * BLOCK), bytes);
        factors[g] = block.factor * 0.5f;
        offsets[g] = _mm512_reduce_add_epi32(_mm512_madd_epi16(block.values, _mm512_set1_epi16(-WEIGHT_OFFSET)));
    }
}

/* One block of 16 rows, `stride` bytes apart, as its 4 words of 4 bytes: a lane is a row. */
AVX512_INLINE void transpose_16(__m512i words[WORDS], const uint8_t *blocks, int64_t stride) {
    __m512i rows[4];
    for (int i = 0; i < 4; i++) {
        __m512i some = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)(blocks + i * stride)));
        some = _mm512_inserti32x4(some, _mm_loadu_si128((const __m128i *)(blocks + (i + 4) * stride)), 1);
        some = _mm512_inserti32x4(some, _mm_loadu_si128((const __m128i *)(blocks + (i + 8) * stride)), 2);
        rows[i] = _mm512_inserti32x4(some, _mm_loadu_si128((const __m128i *)(blocks + (i + 12) * stride)), 3);
    }
    __m512i a = _mm512_unpacklo_epi32(rows[0], rows[1]), b = _mm512_unpacklo_epi32(rows[2], rows[3]);
    __m512i c = _mm512_unpackhi_epi32(rows[0], rows[1]), d = _mm512_unpackhi_epi32(rows[2], rows[3]);
    words[0] = _mm512_unpacklo_epi64(a, b), words[1] = _mm512_unpackhi_epi64(a, b);
    words[2] = _mm512_unpacklo_epi64(c, d), words[3] = _mm512_unpackhi_epi64(c, d);
}

/* Unpack a word to 4 vectors of int16 pairs. vpmultishiftqb moves the two nibbles of a byte to the bottom of two 16-bit
   lanes. vpermw uses 5 bits of each: the table is repeated for the bit above the nibble. */
AVX512_INLINE void unpack_int16(char *to, __m512i word) {
    const __m512i table =
        _mm512_broadcast_i64x4(_mm256_setr_epi16(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12));
    for (int byte = 0; byte < 4; byte++) {
        const __m512i bits = _mm512_set1_epi64(0x0024002000040000 + byte * 0x0008000800080008);
        __m512i nibbles = _mm512_multishift_epi64_epi8(bits, word);
        _mm512_store_si512(to + byte * HALVES * LINE, _mm512_permutexvar_epi16(nibbles, table));
    }
}

/* Unpack a word to its even weights and its odd ones, as bytes. The table is repeated, for vpermb uses 6 bits. */
AVX512_INLINE void unpack_int8(char *to, __m512i word) {
    const __m512i table =
        _mm512_broadcast_i32x4(_mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
    _mm512_store_si512(to, _mm512_permutexvar_epi8(word, table));
    _mm512_store_si512(to + HALVES * LINE, _mm512_permutexvar_epi8(_mm512_srli_epi16(word, 4), table));
}

/* Unpack `count` blocks of rows that are n blocks long. */
AVX512_INLINE void unpack(Panel *panel, const uint8_t *blocks, const uint8_t *scales, int64_t n, int64_t count,
                          const int steps) {
    for (int64_t g = 0; g < count; g++)
        for (int half = 0; half < HALVES; half++) {
            __m512i words[WORDS];
            _Alignas(16) uint8_t column[LANES];
            char *to = panel->weights + (g * steps * HALVES + half) * LINE;
            transpose_16(words, blocks + (half * LANES * n + g) * BLOCK_BYTES, n * BLOCK_BYTES);
            for (int word = 0; word < WORDS; word++, to += steps / WORDS * HALVES * LINE) {
                if (steps == INT16_STEPS) {
                    unpack_int16(to, words[word]);
                } else {
                    unpack_int8(to, words[word]);
                }
            }
            for (int i = 0; i < LANES; i++) column[i] = scales[(half * LANES + i) * n + g];
            _mm512_store_ps(panel->powers[g] + half * LANES, powers_of_16(_mm_load_si128((const __m128i *)column)));
        }
}

/* Inline asm: otherwise gcc 12 copies every accumulator twice. */
AVX512_INLINE void add_products(__m512i *sum, __m512i weights, __m512i x, const int steps) {
    if (steps == INT16_STEPS) {
        __asm__("vpdpwssd %2, %1, %0" : "+v"(*sum) : "v"(weights), "v"(x));
    } else {
        __asm__("vpdpbusd %2, %1, %0" : "+v"(*sum) : "v"(weights), "v"(x));
    }
}

/* Multiply block `g` of the rows by some tokens from `token` on, and add it to their sums. */
AVX512_INLINE void multiply_block(__m512 sums[TOKENS][HALVES], const char *weights, const float *powers,
                                  const Activations *x, int64_t token, int64_t g, const int tokens, const int steps) {
    const int64_t at = token * x->n + g, bytes = 4 * steps;
    const char *values = x->values + at * bytes;
    __m512i parts[TOKENS][HALVES];
    for (int t = 0; t < tokens; t++)
        parts[t][0] = parts[t][1] =
            steps == INT16_STEPS ? _mm512_setzero_si512() : _mm512_set1_epi32(x->offsets[at + t * x->n]);
    for (int step = 0; step < steps; step++) {
        __m512i first = _mm512_load_si512(weights + step * HALVES * LINE);
        __m512i second = _mm512_load_si512(weights + step * HALVES * LINE + LINE);
        for (int t = 0; t < tokens; t++) {
            int32_t few;
            memcpy(&few, values + t * x->n * bytes + 4 * step, sizeof few);
            __m512i columns = _mm512_set1_epi32(few);
            add_products(&parts[t][0], first, columns, steps);
            add_products(&parts[t][1], second, columns, steps);
        }
    }
    for (int t = 0; t < tokens; t++)
        for (int half = 0; half < HALVES; half++) {
            __m512 part = _mm512_mul_ps(_mm512_cvtepi32_ps(parts[t][half]), _mm512_set1_ps(x->factors[at + t * x->n]));
            sums[t][half] = _mm512_fmadd_ps(part, _mm512_load_ps(powers + half * LANES), sums[t][half]);
        }
}

AVX512_INLINE void multiply_strip(float *to, const Panel *panel, const Activations *x, int64_t token, int64_t start,
                                  int64_t count, const int tokens, const int steps) {
    __m512 sums[TOKENS][HALVES];
    for (int t = 0; t < tokens; t++)
        for (int half = 0; half < HALVES; half++)
            sums[t][half] = start ? _mm512_loadu_ps(to + t * TILE_ROWS + half * LANES) : _mm512_setzero_ps();
    for (int64_t g = 0; g < count; g++)
        multiply_block(sums, panel->weights + g * steps * HALVES * LINE, panel->powers[g], x, token, start + g, tokens,
                       steps);
    for (int t = 0; t < tokens; t++)
        for (int half = 0; half < HALVES; half++) _mm512_storeu_ps(to + t * TILE_ROWS + half * LANES, sums[t][half]);
}

AVX512_INLINE void prefetch_strip(const uint8_t *blocks, int64_t n) {
    for (int row = 0; row < TILE_ROWS; row++)
        for (int line = 0; line < STRIP_BLOCKS * BLOCK_BYTES; line += LINE)
            _mm_prefetch((const char *)blocks + row * n * BLOCK_BYTES + line, _MM_HINT_T1);
}

AVX512_INLINE void tile(float *sums, const uint8_t *blocks, const uint8_t *scales, const Activations *x, int64_t tokens,
                        const int steps) {
    const int64_t n = x->n;
    Panel panel;
    for (int64_t start = 0; start < n; start += STRIP_BLOCKS) {
        int64_t count = n - start < STRIP_BLOCKS ? n - start : STRIP_BLOCKS;
        const uint8_t *at = blocks + start * BLOCK_BYTES;
        prefetch_strip(start + count < n ? at + STRIP_BLOCKS * BLOCK_BYTES : blocks + TILE_ROWS * n * BLOCK_BYTES, n);
        unpack(&panel, at, scales + start, n, count, steps);
        for (int64_t t = 0; t < tokens; t += TOKENS) {
            float *to = sums + t * TILE_ROWS;
            switch (tokens - t) {
                case 1: multiply_strip(to, &panel, x, t, start, count, 1, steps); break;
                case 2: multiply_strip(to, &panel, x, t, start, count, 2, steps); break;
                case 3: multiply_strip(to, &panel, x, t, start, count, 3, steps); break;
                case 4: multiply_strip(to, &panel, x, t, start, count, 4, steps); break;
                case 5: multiply_strip(to, &panel, x, t, start, count, 5, steps); break;
                default: multiply_strip(to, &panel, x, t, start, count, TOKENS, steps); break;
            }
        }
    }
}

AVX512 void gptoss_avx512_tile_int16(float *sums, const uint8_t *blocks, const uint8_t *scales, int64_t n,
                                     const void *packed, int64_t tokens) {
    const int16_t *values = packed;
    Activations x = {packed, (const float *)(values + tokens * n * BLOCK), NULL, n};
    tile(sums, blocks, scales, &x, tokens, INT16_STEPS);
}

AVX512 void gptoss_avx512_tile_int8(float *sums, const uint8_t *blocks, const uint8_t *scales, int64_t n,
                                    const void *packed, int64_t tokens) {
    const float *factors = (const float *)((const int8_t *)packed + tokens * n * BLOCK);
    Activations x = {packed, factors, (const int32_t *)(factors + tokens * n), n};
    tile(sums, blocks, scales, &x, tokens, INT8_STEPS);
}

#else

typedef int gptoss_no_avx512_tile;

#endif
