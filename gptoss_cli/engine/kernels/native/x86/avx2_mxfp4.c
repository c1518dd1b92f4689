/* Products of MXFP4 rows with int16 and float32 activations in AVX2. */
#include "avx2.h"

#ifdef HAS_AVX2

#include <stddef.h>

/* Tokens that a row of MXFP4 weights takes at once. */
enum { MANY = 4 };

/* Of each block 32 values, and in another array FACTORS numbers of 4 bytes. */
enum { FACTORS = 2, PACKED_BYTES = BLOCK * sizeof(int16_t) + FACTORS * sizeof(float) };

/* Where block g of a group has its factor: the order in which neighbours are added up. */
static const int64_t PLACES[GROUP] = {0, 4, 1, 5, 2, 6, 3, 7};

/* Split each value into two signed bytes, x = 256 * high + low. Two blocks become 4 vectors, with the first block in
   the lower halves:

      | high bytes, even elements | high bytes, odd | low bytes, even | low bytes, odd |

   A group also has 8 factors, halved because the weights are doubled, and 8 integers: what WEIGHT_OFFSET adds to the
   sum of each block. */
AVX2 static void pack(void *packed, const float *x, int64_t blocks) {
    int16_t *values = packed;
    float *factors = (float *)(values + padded_blocks(blocks) * BLOCK);
    memset(packed, 0, (size_t)(padded_blocks(blocks) * PACKED_BYTES));
    const __m256i split =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 8, 12, 2, 6, 10, 14, 1, 5, 9, 13, 3, 7, 11, 15));
    for (int64_t g = 0; g < blocks; g++) {
        int16_t natural[BLOCK];
        float *group = factors + g / GROUP * GROUP * FACTORS;
        group[PLACES[g % GROUP]] = gptoss_avx2_quantize_block(natural, x + g * BLOCK, MOST_INT16) * 0.5f;
        __m256i sum = _mm256_setzero_si256();
        int8_t *pair = (int8_t *)(values + g / 2 * 2 * BLOCK) + g % 2 * BLOCK_BYTES;
        for (int half = 0; half < 2; half++) {
            /* Of each 8 values: 4 low bytes of even elements, 4 high bytes of them, and the same of odd ones. */
            __m256i x16 = load(natural + 16 * half);
            sum = _mm256_add_epi32(sum, _mm256_madd_epi16(x16, _mm256_set1_epi16(WEIGHT_OFFSET)));
            __m256i low = _mm256_srai_epi16(_mm256_slli_epi16(x16, 8), 8);
            __m256i bytes = _mm256_or_si256(_mm256_and_si256(low, _mm256_set1_epi16(255)), _mm256_sub_epi16(x16, low));
            uint32_t words[8];
            _mm256_storeu_si256((__m256i *)words, _mm256_shuffle_epi8(bytes, split));
            for (int eight = 0; eight < 2; eight++) {
                int8_t *at = pair + 8 * half + 4 * eight;
                const uint32_t *from = words + 4 * eight;
                memcpy(at + 64, from, 4), memcpy(at + 96, from + 1, 4);
                memcpy(at, from + 2, 4), memcpy(at + 32, from + 3, 4);
            }
        }
        int32_t lanes[8], offset = 0;
        _mm256_storeu_si256((__m256i *)lanes, sum);
        for (int i = 0; i < 8; i++) offset += lanes[i];
        memcpy(group + GROUP + PLACES[g % GROUP], &offset, sizeof offset);
    }
}

/* The weights of two blocks, even elements and odd ones, made unsigned: vpmaddubsw needs one unsigned factor. */
typedef struct {
    __m256i evens, odds;
} Pair;

AVX2_INLINE Pair unpack_pair(__m256i nibbles) {
    const __m256i low = _mm256_set1_epi8(15);
    const __m256i weights = _mm256_add_epi8(doubled_values(), _mm256_set1_epi8(WEIGHT_OFFSET));
    return (Pair){_mm256_shuffle_epi8(weights, _mm256_and_si256(nibbles, low)),
                  _mm256_shuffle_epi8(weights, _mm256_and_si256(_mm256_srli_epi16(nibbles, 4), low))};
}

/* Multiply by the values that pack made. Returns 4 partial sums of the first block and 4 of the second. 16-bit sums
   stay below 2 * 2 * 24 * 128, so that vpmaddubsw does not saturate. */
AVX2_INLINE __m256i multiply_pair(Pair pair, const int16_t *values) {
    __m256i highs = _mm256_add_epi16(_mm256_maddubs_epi16(pair.evens, load(values)),
                                     _mm256_maddubs_epi16(pair.odds, load(values + 16)));
    __m256i lows = _mm256_add_epi16(_mm256_maddubs_epi16(pair.evens, load(values + 32)),
                                    _mm256_maddubs_epi16(pair.odds, load(values + 48)));
    return _mm256_add_epi32(_mm256_madd_epi16(highs, _mm256_set1_epi16(256)),
                            _mm256_madd_epi16(lows, _mm256_set1_epi16(1)));
}

/* Powers of two for the scales of a group, in the order of PLACES. */
AVX2_INLINE __m256 powers_of_group(uint64_t scales) {
    const __m128i order = _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, -1, -1, -1, -1, -1, -1, -1, -1);
    __m128i bytes = _mm_shuffle_epi8(_mm_set_epi64x(0, (long long)scales), order);
    return powers_of_two(_mm256_cvtepu8_epi32(bytes));
}

/* Add 8 blocks, given their sums. Without the offset a sum is below 2^24 and therefore exact in fp32. */
AVX2_INLINE __m256 add_group(__m256 sums, __m256i parts, __m256 powers, const float *factors) {
    __m256 part = _mm256_cvtepi32_ps(_mm256_sub_epi32(parts, load(factors + GROUP)));
    /* In this order, because factor times power could underflow. */
    return _mm256_fmadd_ps(_mm256_mul_ps(part, _mm256_loadu_ps(factors)), powers, sums);
}

/* The scales of the last `rest` of n blocks, followed by zeros. */
static inline uint64_t last_scales(const uint8_t *scales, int64_t n, int64_t rest) {
    uint64_t bits = 0;
    if (n < GROUP) {
        memcpy(&bits, scales, (size_t)n);
        return bits;
    }
    memcpy(&bits, scales + n - GROUP, sizeof bits);
    return bits >> (8 * (GROUP - rest));
}

AVX2_INLINE __m256 add_last(__m256 sums, const uint8_t *blocks, uint64_t scales, const int16_t *values,
                            const float *factors, int64_t rest) {
    __m256i pairs[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(),
                        _mm256_setzero_si256()};
    for (int i = 0; i < 4; i++) {
        if (rest >= 2 * i + 2) {
            pairs[i] = multiply_pair(unpack_pair(load(blocks + 2 * i * BLOCK_BYTES)), values + 2 * i * BLOCK);
        } else if (rest == 2 * i + 1) { /* the values of the other block are 0 */
            __m128i block = _mm_loadu_si128((const __m128i *)(blocks + 2 * i * BLOCK_BYTES));
            pairs[i] = multiply_pair(unpack_pair(_mm256_zextsi128_si256(block)), values + 2 * i * BLOCK);
        }
    }
    __m256i parts = add_neighbours(add_neighbours(pairs[0], pairs[1]), add_neighbours(pairs[2], pairs[3]));
    return add_group(sums, parts, powers_of_group(scales), factors);
}

/* dots of up to MANY tokens. */
AVX2_INLINE void dots_of_some(float *to, const uint8_t *blocks, const uint8_t *scales, int64_t rows, const void *packed,
                              int64_t n, const int tokens) {
    const int16_t *values = packed;
    const float *factors = (const float *)(values + padded_blocks(n) * BLOCK);
    const int64_t x_stride = padded_blocks(n) * PACKED_BYTES / (int64_t)sizeof *values, f_stride = x_stride / 2;
    int64_t rest = n % GROUP, whole = n - rest;
    for (int64_t row = 0; row < rows; row++, blocks += n * BLOCK_BYTES, scales += n) {
        __m256 sums[MANY];
        for (int t = 0; t < tokens; t++) sums[t] = _mm256_setzero_ps();
        for (int64_t g = 0; g < whole; g += GROUP) {
            const uint8_t *at = blocks + g * BLOCK_BYTES;
            _mm_prefetch((const char *)at + AHEAD_BYTES, _MM_HINT_T0);
            _mm_prefetch((const char *)at + AHEAD_BYTES + 64, _MM_HINT_T0);
            __m256i parts[2][MANY];
            for (int half = 0; half < 2; half++) {
                const int16_t *x = values + (g + 4 * half) * BLOCK;
                Pair first = unpack_pair(load(at + 64 * half)), second = unpack_pair(load(at + 64 * half + 32));
                for (int t = 0; t < tokens; t++)
                    parts[half][t] = add_neighbours(multiply_pair(first, x + t * x_stride),
                                                    multiply_pair(second, x + t * x_stride + 64));
            }
            uint64_t bytes;
            memcpy(&bytes, scales + g, sizeof bytes);
            __m256 powers = powers_of_group(bytes);
            for (int t = 0; t < tokens; t++)
                sums[t] = add_group(sums[t], add_neighbours(parts[0][t], parts[1][t]), powers,
                                    factors + t * f_stride + g * FACTORS);
        }
        for (int t = 0; t < tokens; t++) {
            if (rest)
                sums[t] = add_last(sums[t], blocks + whole * BLOCK_BYTES, last_scales(scales, n, rest),
                                   values + t * x_stride + whole * BLOCK, factors + t * f_stride + whole * FACTORS,
                                   rest);
            to[t * rows + row] = sum_of(sums[t]);
        }
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

AVX2_INLINE float dot_float32(const uint8_t *blocks, const uint8_t *scales, const float *x, int64_t n) {
    const __m128i low = _mm_set1_epi8(15), values = _mm256_castsi256_si128(doubled_values());
    __m256 sums = _mm256_setzero_ps();
    for (int64_t g = 0; g < n; g++) {
        __m128i nibbles = _mm_loadu_si128((const __m128i *)(blocks + g * BLOCK_BYTES));
        __m128i evens = _mm_shuffle_epi8(values, _mm_and_si128(nibbles, low));
        __m128i odds = _mm_shuffle_epi8(values, _mm_and_si128(_mm_srli_epi16(nibbles, 4), low));
        __m128i halves[2] = {_mm_unpacklo_epi8(evens, odds), _mm_unpackhi_epi8(evens, odds)};
        __m256 sum = _mm256_setzero_ps();
        for (int i = 0; i < 4; i++) {
            __m128i eight = i % 2 ? _mm_srli_si128(halves[i / 2], 8) : halves[i / 2];
            __m256 weights = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(eight));
            sum = _mm256_fmadd_ps(weights, _mm256_loadu_ps(x + g * BLOCK + 8 * i), sum);
        }
        sum = _mm256_mul_ps(sum, _mm256_set1_ps(0.5f));
        sums = _mm256_fmadd_ps(sum, _mm256_set1_ps(power_of_two(scales[g])), sums);
    }
    return sum_of(sums);
}

static void pack_float32(void *packed, const float *x, int64_t blocks) {
    memcpy(packed, x, (size_t)(blocks * BLOCK) * sizeof *x);
}

AVX2 static void dots_float32(float *sums, const uint8_t *blocks, const uint8_t *scales, int64_t rows,
                              const void *packed, int64_t n, int64_t tokens) {
    for (int64_t row = 0; row < rows; row++)
        for (int64_t t = 0; t < tokens; t++)
            sums[t * rows + row] = dot_float32(blocks + row * n * BLOCK_BYTES, scales + row * n,
                                               (const float *)packed + t * padded_blocks(n) * BLOCK, n);
}

const Mxfp4Kernels gptoss_avx2_int16 = {PACKED_BYTES, 16, pack, dots, gptoss_avx2_pack_tile, gptoss_avx2_tile};
const Mxfp4Kernels gptoss_avx2_float32 = {BLOCK * sizeof(float), 0, pack_float32, dots_float32, NULL, NULL};

#else

typedef int gptoss_no_avx2_mxfp4;

#endif
