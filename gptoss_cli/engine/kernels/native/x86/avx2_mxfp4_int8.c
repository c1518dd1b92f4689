/* Products of MXFP4 rows with int8 activations in AVX2: as avx2_mxfp4.c and avx2_tile.c, with half the bytes and work.
   */
#include "avx2.h"

#ifdef HAS_AVX2

/* WEIGHT_OFFSET makes doubled weights unsigned, X_OFFSET activations: vpmaddubsw needs one unsigned factor. */
enum { X_OFFSET = 128, MANY = 4 };
enum { TILE_ROWS = 16, LANES = 8, HALVES = TILE_ROWS / LANES, WORDS = 4 };

/* Of each block 32 values, and in another array FACTORS numbers of 4 bytes. */
enum { FACTORS = 2, PACKED_BYTES = BLOCK + FACTORS * sizeof(float) };

/* Quantize a block. Returns its factor, halved because the weights are doubled. */
AVX2_INLINE float quantize(int8_t *values, int32_t *offset, const float *x) {
    int16_t wide[BLOCK];
    float factor = gptoss_avx2_quantize_block(wide, x, MOST_INT8) * 0.5f;
    *offset = 0;
    for (int i = 0; i < BLOCK; i++) {
        values[i] = (int8_t)wide[i];
        *offset += wide[i] * WEIGHT_OFFSET;
    }
    return factor;
}

/* Where block g of a group has its factor: the order in which neighbours are added up. */
static const int64_t PLACES[GROUP] = {0, 4, 1, 5, 2, 6, 3, 7};

/* Two blocks become 2 vectors, even elements and odd ones, with the first block in the lower halves. */
AVX2 static void pack(void *packed, const float *x, int64_t blocks) {
    int8_t *values = packed;
    float *factors = (float *)(values + padded_blocks(blocks) * BLOCK);
    memset(packed, 0, (size_t)(padded_blocks(blocks) * PACKED_BYTES));
    for (int64_t g = 0; g < blocks; g++) {
        int8_t natural[BLOCK], *pair = values + g / 2 * 2 * BLOCK + g % 2 * BLOCK_BYTES;
        int32_t offset;
        float *group = factors + g / GROUP * GROUP * FACTORS;
        group[PLACES[g % GROUP]] = quantize(natural, &offset, x + g * BLOCK);
        memcpy(group + GROUP + PLACES[g % GROUP], &offset, sizeof offset);
        for (int i = 0; i < BLOCK; i++) pair[i % 2 * BLOCK + i / 2] = natural[i];
    }
}

/* The 16-bit sums of two blocks, below 2 * 2 * 24 * 127. */
AVX2_INLINE __m256i multiply_pair(__m256i evens, __m256i odds, const int8_t *values) {
    return _mm256_add_epi16(_mm256_maddubs_epi16(evens, load(values)),
                            _mm256_maddubs_epi16(odds, load(values + BLOCK)));
}

/* Bring together words that alternate in pairs. */
AVX2_INLINE void sort_words(__m256i *first, __m256i *second, __m256i a, __m256i b) {
    __m256 x = _mm256_castsi256_ps(a), y = _mm256_castsi256_ps(b);
    *first = _mm256_castps_si256(_mm256_shuffle_ps(x, y, 0x88));
    *second = _mm256_castps_si256(_mm256_shuffle_ps(x, y, 0xDD));
}

/* Add the group of 8 blocks at `at` for each token; tokens are `bytes` apart. */
AVX2_INLINE void add_group(__m256 sums[MANY], const uint8_t *at, uint64_t scales, const int8_t *values,
                           const float *factors, int64_t bytes, const int tokens) {
    const __m256i low = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
    const __m256i weights = _mm256_add_epi8(doubled_values(), _mm256_set1_epi8(WEIGHT_OFFSET));
    const __m128i order = _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, -1, -1, -1, -1, -1, -1, -1, -1);
    __m256i parts[2][MANY];
    for (int half = 0; half < 2; half++) {
        __m256i evens[2], odds[2], first, second;
        for (int i = 0; i < 2; i++) {
            __m256i nibbles = load(at + 64 * half + 32 * i);
            evens[i] = _mm256_shuffle_epi8(weights, _mm256_and_si256(nibbles, low));
            odds[i] = _mm256_shuffle_epi8(weights, _mm256_and_si256(_mm256_srli_epi16(nibbles, 4), low));
        }
        for (int t = 0; t < tokens; t++) {
            const int8_t *x = values + t * bytes + 4 * half * BLOCK;
            sort_words(&first, &second, multiply_pair(evens[0], odds[0], x),
                       multiply_pair(evens[1], odds[1], x + 2 * BLOCK));
            parts[half][t] = _mm256_madd_epi16(_mm256_add_epi16(first, second), ones); /* still below 2^15 */
        }
    }
    __m128i sorted = _mm_shuffle_epi8(_mm_set_epi64x(0, (long long)scales), order);
    __m256 powers = powers_of_two(_mm256_cvtepu8_epi32(sorted));
    for (int t = 0; t < tokens; t++) {
        const float *f = factors + t * bytes / (int64_t)sizeof *factors;
        __m256i first, second;
        sort_words(&first, &second, parts[0][t], parts[1][t]);
        __m256i part = _mm256_sub_epi32(_mm256_add_epi32(first, second), load(f + GROUP));
        sums[t] = _mm256_fmadd_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(part), _mm256_loadu_ps(f)), powers, sums[t]);
    }
}

AVX2_INLINE void dots_of_some(float *to, const uint8_t *blocks, const uint8_t *scales, int64_t rows, const void *packed,
                              int64_t n, const int tokens) {
    const int8_t *values = packed;
    const float *factors = (const float *)(values + padded_blocks(n) * BLOCK);
    const int64_t bytes = padded_blocks(n) * PACKED_BYTES;
    int64_t rest = n % GROUP, whole = n - rest;
    for (int64_t row = 0; row < rows; row++, blocks += n * BLOCK_BYTES, scales += n) {
        __m256 sums[MANY];
        for (int t = 0; t < tokens; t++) sums[t] = _mm256_setzero_ps();
        for (int64_t g = 0; g < whole; g += GROUP) {
            uint64_t eight;
            memcpy(&eight, scales + g, sizeof eight);
            _mm_prefetch((const char *)blocks + g * BLOCK_BYTES + AHEAD_BYTES, _MM_HINT_T0);
            _mm_prefetch((const char *)blocks + g * BLOCK_BYTES + AHEAD_BYTES + 64, _MM_HINT_T0);
            add_group(sums, blocks + g * BLOCK_BYTES, eight, values + g * BLOCK, factors + g * FACTORS, bytes, tokens);
        }
        if (rest) {
            uint8_t last[GROUP * BLOCK_BYTES] = {0};
            uint64_t eight = 0;
            memcpy(last, blocks + whole * BLOCK_BYTES, (size_t)(rest * BLOCK_BYTES));
            memcpy(&eight, scales + whole, (size_t)rest);
            add_group(sums, last, eight, values + whole * BLOCK, factors + whole * FACTORS, bytes, tokens);
        }
        for (int t = 0; t < tokens; t++) to[t * rows + row] = sum_of(sums[t]);
    }
}

AVX2 static void dots(float *to, const uint8_t *blocks, const uint8_t *scales, int64_t rows, const void *packed,
                      int64_t n, int64_t tokens) {
    const int64_t bytes = padded_blocks(n) * PACKED_BYTES;
    for (; tokens > 0; tokens -= MANY) {
        switch (tokens) {
            case 1: dots_of_some(to, blocks, scales, rows, packed, n, 1); break;
            case 2: dots_of_some(to, blocks, scales, rows, packed, n, 2); break;
            case 3: dots_of_some(to, blocks, scales, rows, packed, n, 3); break;
            default: dots_of_some(to, blocks, scales, rows, packed, n, MANY); break;
        }
        to += MANY * rows, packed = (const char *)packed + MANY * bytes;
    }
}

/* values [blocks, tokens, 32] and then factors [blocks, tokens]. X_OFFSET is added to the values; each 8 of them are
   reordered to 4 even ones and 4 odd ones. */
AVX2 static void pack_tile(void *packed, const float *x, int64_t blocks, int64_t token, int64_t tokens) {
    float *factors = (float *)((char *)packed + blocks * tokens * BLOCK);
    for (int64_t g = 0; g < blocks; g++) {
        int8_t natural[BLOCK];
        int32_t offset;
        int64_t at = g * tokens + token;
        uint8_t *bytes = (uint8_t *)packed + at * BLOCK;
        factors[at] = quantize(natural, &offset, x + g * BLOCK);
        for (int i = 0; i < BLOCK; i++) bytes[i / 8 * 8 + i % 2 * 4 + i % 8 / 2] = (uint8_t)(natural[i] + X_OFFSET);
    }
}

/* One block of 16 rows; a lane is a row. For each word, 8 columns, the even and the odd weights. `offsets` undo what
   X_OFFSET adds. */
typedef struct {
    __m256i evens[WORDS][HALVES], odds[WORDS][HALVES], offsets[HALVES];
} Panel;

AVX2_INLINE void unpack_half(Panel *panel, int half, const uint8_t *blocks, int64_t stride) {
    const __m256i low = _mm256_set1_epi8(15);
    __m256i words[WORDS], sums = _mm256_setzero_si256(); /* of 8 weights: 96 at most */
    transpose_block(words, blocks, stride);
    for (int word = 0; word < WORDS; word++) {
        __m256i upper = _mm256_and_si256(_mm256_srli_epi16(words[word], 4), low);
        __m256i evens = _mm256_shuffle_epi8(doubled_values(), _mm256_and_si256(words[word], low));
        __m256i odds = _mm256_shuffle_epi8(doubled_values(), upper);
        panel->evens[word][half] = evens, panel->odds[word][half] = odds;
        sums = _mm256_add_epi8(sums, _mm256_add_epi8(evens, odds));
    }
    panel->offsets[half] =
        _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_set1_epi8(1), sums), _mm256_set1_epi16(-X_OFFSET));
}

/* Add a block of one token to the sums of 16 rows. 16-bit sums stay below 4 * 2 * 12 * 255. */
AVX2_INLINE void multiply(float *sums, const Panel *panel, const __m256 powers[HALVES], const uint8_t *values,
                          float factor) {
    __m256i parts[HALVES];
    for (int word = 0; word < WORDS; word += 2) {
        __m256i x[4]; /* of two words, even and odd */
        for (int i = 0; i < 4; i++) {
            int32_t four;
            memcpy(&four, values + 8 * word + 4 * i, sizeof four);
            x[i] = _mm256_set1_epi32(four);
        }
        for (int half = 0; half < HALVES; half++) {
            __m256i first = _mm256_add_epi16(_mm256_maddubs_epi16(x[0], panel->evens[word][half]),
                                             _mm256_maddubs_epi16(x[1], panel->odds[word][half]));
            __m256i second = _mm256_add_epi16(_mm256_maddubs_epi16(x[2], panel->evens[word + 1][half]),
                                              _mm256_maddubs_epi16(x[3], panel->odds[word + 1][half]));
            __m256i part = _mm256_madd_epi16(_mm256_add_epi16(first, second), _mm256_set1_epi16(1));
            parts[half] = _mm256_add_epi32(word ? parts[half] : panel->offsets[half], part);
        }
    }
    for (int half = 0; half < HALVES; half++) {
        __m256 part = _mm256_mul_ps(_mm256_cvtepi32_ps(parts[half]), _mm256_set1_ps(factor));
        float *sum = sums + half * LANES;
        _mm256_storeu_ps(sum, _mm256_fmadd_ps(part, powers[half], _mm256_loadu_ps(sum)));
    }
}

AVX2 static void tile(float *sums, const uint8_t *blocks, const uint8_t *scales, int64_t n, const void *packed,
                      int64_t tokens) {
    const uint8_t *values = packed;
    const float *factors = (const float *)(values + n * tokens * BLOCK);
    memset(sums, 0, (size_t)tokens * TILE_ROWS * sizeof *sums);
    for (int64_t g = 0; g < n; g++) {
        Panel panel;
        __m256 powers[HALVES];
        for (int half = 0; half < HALVES; half++) {
            int64_t row = half * LANES * n;
            int32_t lanes[LANES];
            for (int i = 0; i < LANES; i++) lanes[i] = scales[row + i * n + g];
            powers[half] = powers_of_two(load(lanes));
            unpack_half(&panel, half, blocks + (row + g) * BLOCK_BYTES, n * BLOCK_BYTES);
        }
        for (int64_t t = 0; t < tokens; t++) {
            int64_t at = g * tokens + t;
            multiply(sums + t * TILE_ROWS, &panel, powers, values + at * BLOCK, factors[at]);
        }
    }
}

const Mxfp4Kernels gptoss_avx2_int8 = {PACKED_BYTES, TILE_ROWS, pack, dots, pack_tile, tile};

#else

typedef int gptoss_no_avx2_mxfp4_int8;

#endif
