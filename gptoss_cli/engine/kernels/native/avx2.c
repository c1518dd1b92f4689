/* The inner loops in AVX2 and FMA. */
#include "gptoss.h"

#ifdef HAS_AVX2

#include <math.h>

#include "avx2.h"

/* How far ahead of their use weights are asked for: a thread that computes and waits in turn leaves memory idle. */
enum { AHEAD_BYTES = 1536 };

/* Tokens at once by a row of MXFP4, and by a tile of float32. */
enum { MANY = 4, TOKENS = 3 };

/* Added to doubled weights, it makes them 0 to 24. */
enum { WEIGHT_OFFSET = 12 };

AVX2_INLINE float sum_of(__m256 v) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

/* The even elements of each 16 and then the odd ones: so the two halves of a bf16 pair need a shift and a mask. */
AVX2 static void pack_float(float *packed, const float *x, int64_t n) {
    int64_t i = 0;
    for (; i + 16 <= n; i += 16)
        for (int64_t j = 0; j < 8; j++) {
            packed[i + j] = x[i + 2 * j];
            packed[i + 8 + j] = x[i + 2 * j + 1];
        }
    for (; i < n; i++) packed[i] = x[i];
}

AVX2 static float dot_bf16(const uint8_t *weights, const float *packed, int64_t n) {
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

AVX2_INLINE float largest_of(__m256 v) {
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

/* See quantize_block in scalar.c. */
AVX2 float gptoss_avx2_quantize_block(int16_t *values, const float *x, float limit) {
    const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7FFFFFFF));
    __m256 most = _mm256_setzero_ps(), broken = _mm256_setzero_ps();
    for (int i = 0; i < BLOCK; i += 8) {
        __m256 part = _mm256_loadu_ps(x + i);
        most = _mm256_max_ps(_mm256_and_ps(part, magnitude), most);
        broken = _mm256_fmadd_ps(part, _mm256_setzero_ps(), broken);
    }
    float largest = largest_of(most), nan = sum_of(broken);
    float inverse = largest > 0 && nan == 0 ? limit / largest : 0;
    if (inverse > 3e38f) inverse = 0;
    for (int i = 0; i < BLOCK; i += 16) {
        __m256 scale = _mm256_set1_ps(inverse), nothing = _mm256_set1_ps(inverse == 0 ? 0.0f : 1.0f);
        __m256i low = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i), scale));
        __m256i high = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i + 8), scale));
        __m256i kept = _mm256_castps_si256(_mm256_cmp_ps(nothing, _mm256_setzero_ps(), _CMP_NEQ_OQ));
        __m256i both = _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xD8);
        _mm256_storeu_si256((__m256i *)(values + i), _mm256_and_si256(both, kept));
    }
    return largest / limit + nan;
}

AVX2 static void quantize(int16_t *values, float *factors, const float *x, int64_t blocks) {
    for (int64_t g = 0; g < blocks; g++) 
        factors[g] = gptoss_avx2_quantize_block(values + g * BLOCK, x + g * BLOCK, MOST_INT16);
}

/* Where block g of a group has its factor: the order in which neighbours are added up. */
static const int64_t PLACES[GROUP] = {0, 4, 1, 5, 2, 6, 3, 7};

/* Each value x to two signed bytes, x = 256 * high + low. Of two blocks 4 vectors: the high bytes of the even elements,
   of the odd ones, and so the low bytes; the first block is the lower half of each. Of a group 8 factors, with what
   doubled weights are too large by, and as integers 8 sums of what WEIGHT_OFFSET adds. */
AVX2 static void pack_blocks(void *to, float *factors, const float *x, int64_t blocks) {
    int16_t *values = to;
    int64_t padded = (blocks + GROUP - 1) / GROUP * GROUP;
    memset(values, 0, (size_t)padded * BLOCK * sizeof *values);
    memset(factors, 0, (size_t)padded * FACTORS * sizeof *factors);
    const __m256i split = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 8, 12, 2, 6, 10, 14, 1, 5, 9, 13, 3, 7, 11, 15));
    for (int64_t g = 0; g < blocks; g++) {
        int16_t natural[BLOCK];
        float *group = factors + g / GROUP * GROUP * FACTORS;
        group[PLACES[g % GROUP]] = gptoss_avx2_quantize_block(natural, x + g * BLOCK, MOST_INT16) * 0.5f;
        __m256i sum = _mm256_setzero_si256();
        int8_t *pair = (int8_t *)(values + g / 2 * 2 * BLOCK) + g % 2 * BLOCK_BYTES;
        for (int half = 0; half < 2; half++) {
            /* 16 values: an int64 of even and one of odd elements of each 8, lows and then highs. */
            __m256i x16 = load(natural + 16 * half);
            sum = _mm256_add_epi32(sum, _mm256_madd_epi16(x16, _mm256_set1_epi16(WEIGHT_OFFSET)));
            __m256i low = _mm256_srai_epi16(_mm256_slli_epi16(x16, 8), 8);
            __m256i bytes = _mm256_or_si256(_mm256_and_si256(low, _mm256_set1_epi16(255)), _mm256_sub_epi16(x16, low));
            uint32_t words[8];
            _mm256_storeu_si256((__m256i *)words, _mm256_shuffle_epi8(bytes, split));
            for (int eight = 0; eight < 2; eight++) {
                int8_t *at = pair + 8 * half + 4 * eight;
                const uint32_t *from = words + 4 * eight;
                memcpy(at + 64, from, 4), memcpy(at + 96, from + 1, 4), memcpy(at, from + 2, 4), memcpy(at + 32, from + 3, 4);
            }
        }
        int32_t lanes[8], offset = 0;
        _mm256_storeu_si256((__m256i *)lanes, sum);
        for (int i = 0; i < 8; i++) offset += lanes[i];
        memcpy(group + GROUP + PLACES[g % GROUP], &offset, sizeof offset);
    }
}

/* The weights of two blocks, made unsigned as vpmaddubsw wants one side: even elements and odd ones. */
typedef struct {
    __m256i evens, odds;
} Pair;

AVX2_INLINE Pair unpack_pair(__m256i nibbles) {
    const __m256i low = _mm256_set1_epi8(15);
    const __m256i weights = _mm256_add_epi8(doubled_values(), _mm256_set1_epi8(WEIGHT_OFFSET));
    return (Pair){_mm256_shuffle_epi8(weights, _mm256_and_si256(nibbles, low)),
                  _mm256_shuffle_epi8(weights, _mm256_and_si256(_mm256_srli_epi16(nibbles, 4), low))};
}

/* By the values that pack_blocks made: 4 parts of the sum of the first block, and 4 of the second. 16-bit sums stay below
   2 * 2 * 24 * 128. */
AVX2_INLINE __m256i multiply_pair(Pair pair, const int16_t *values) {
    __m256i highs = _mm256_add_epi16(_mm256_maddubs_epi16(pair.evens, load(values)),
                                     _mm256_maddubs_epi16(pair.odds, load(values + 16)));
    __m256i lows = _mm256_add_epi16(_mm256_maddubs_epi16(pair.evens, load(values + 32)),
                                    _mm256_maddubs_epi16(pair.odds, load(values + 48)));
    return _mm256_add_epi32(_mm256_madd_epi16(highs, _mm256_set1_epi16(256)),
                            _mm256_madd_epi16(lows, _mm256_set1_epi16(1)));
}

/* a0 + a1, a2 + a3, b0 + b1, b2 + b3 of each half. */
AVX2_INLINE __m256i add_neighbours(__m256i a, __m256i b) {
    __m256 x = _mm256_castsi256_ps(a), y = _mm256_castsi256_ps(b);
    return _mm256_add_epi32(_mm256_castps_si256(_mm256_shuffle_ps(x, y, 0x88)),
                            _mm256_castps_si256(_mm256_shuffle_ps(x, y, 0xDD)));
}

/* Exponents of a group, in the order of PLACES. */
AVX2_INLINE __m256 powers_of_group(uint64_t exponents) {
    const __m128i order = _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, -1, -1, -1, -1, -1, -1, -1, -1);
    __m128i bytes = _mm_shuffle_epi8(_mm_set_epi64x(0, (long long)exponents), order);
    return powers_of_two(_mm256_cvtepu8_epi32(bytes));
}

/* Adds 8 blocks, of which `parts` has the sums. One is below 2^24, once the offset is gone, and so exact in fp32. */
AVX2_INLINE __m256 add_group(__m256 sums, __m256i parts, __m256 powers, const float *factors) {
    __m256 part = _mm256_cvtepi32_ps(_mm256_sub_epi32(parts, load(factors + GROUP)));
    /* In this order: factor times power could be below what fp32 holds. */
    return _mm256_fmadd_ps(_mm256_mul_ps(part, _mm256_loadu_ps(factors)), powers, sums);
}

/* The exponents of the last `rest` of n blocks, and zeros. */
static inline uint64_t last_exponents(const uint8_t *exponents, int64_t n, int64_t rest) {
    uint64_t bits = 0;
    if (n < GROUP) {
        memcpy(&bits, exponents, (size_t)n);
        return bits;
    }
    memcpy(&bits, exponents + n - GROUP, sizeof bits);
    return bits >> (8 * (GROUP - rest));
}

AVX2_INLINE __m256 add_last(__m256 sums, const uint8_t *blocks, uint64_t exponents, const int16_t *values,
                            const float *factors, int64_t rest) {
    __m256i pairs[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(),
                        _mm256_setzero_si256()};
    for (int i = 0; i < 4; i++) {
        if (rest >= 2 * i + 2) {
            pairs[i] = multiply_pair(unpack_pair(load(blocks + 2 * i * BLOCK_BYTES)), values + 2 * i * BLOCK);
        } else if (rest == 2 * i + 1) { /* for the other block the values are 0 */
            __m128i block = _mm_loadu_si128((const __m128i *)(blocks + 2 * i * BLOCK_BYTES));
            pairs[i] = multiply_pair(unpack_pair(_mm256_zextsi128_si256(block)), values + 2 * i * BLOCK);
        }
    }
    __m256i parts = add_neighbours(add_neighbours(pairs[0], pairs[1]), add_neighbours(pairs[2], pairs[3]));
    return add_group(sums, parts, powers_of_group(exponents), factors);
}

/* dots of up to MANY tokens, `stride` padded blocks apart. */
AVX2_INLINE void dots_of_some(float *to, const uint8_t *blocks, const uint8_t *exponents, int64_t rows,
                              const int16_t *values, const float *factors, int64_t n, int64_t stride,
                              const int tokens) {
    int64_t rest = n % GROUP, whole = n - rest;
    for (int64_t row = 0; row < rows; row++, blocks += n * BLOCK_BYTES, exponents += n) {
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
                    parts[half][t] = add_neighbours(multiply_pair(first, x + t * stride * BLOCK),
                                                    multiply_pair(second, x + t * stride * BLOCK + 64));
            }
            uint64_t bytes;
            memcpy(&bytes, exponents + g, sizeof bytes);
            __m256 powers = powers_of_group(bytes);
            for (int t = 0; t < tokens; t++)
                sums[t] = add_group(sums[t], add_neighbours(parts[0][t], parts[1][t]), powers,
                                    factors + (t * stride + g) * FACTORS);
        }
        for (int t = 0; t < tokens; t++) {
            if (rest)
                sums[t] = add_last(sums[t], blocks + whole * BLOCK_BYTES, last_exponents(exponents, n, rest),
                                   values + (t * stride + whole) * BLOCK, factors + (t * stride + whole) * FACTORS, rest);
            to[t * rows + row] = sum_of(sums[t]);
        }
    }
}

AVX2 static void dots(float *to, const uint8_t *blocks, const uint8_t *exponents, int64_t rows, const void *from,
                      const float *factors, int64_t n, int64_t tokens) {
    const int16_t *values = from;
    int64_t stride = (n + GROUP - 1) / GROUP * GROUP;
    for (; tokens > 0; tokens -= MANY) {
        switch (tokens) {
            case 1: dots_of_some(to, blocks, exponents, rows, values, factors, n, stride, 1); break;
            case 2: dots_of_some(to, blocks, exponents, rows, values, factors, n, stride, 2); break;
            case 3: dots_of_some(to, blocks, exponents, rows, values, factors, n, stride, 3); break;
            default: dots_of_some(to, blocks, exponents, rows, values, factors, n, stride, MANY); break;
        }
        to += MANY * rows, values += MANY * stride * BLOCK, factors += MANY * stride * FACTORS;
    }
}

AVX2 static float dot_mxfp4_float(const uint8_t *blocks, const uint8_t *exponents, const float *x, int64_t n) {
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
        sums = _mm256_fmadd_ps(sum, _mm256_set1_ps(power_of_two(exponents[g])), sums);
    }
    return sum_of(sums);
}

/* A block of 8-bit weights: 8 parts of its sum, below 4 * 127 * MOST_INT16 each. */
AVX2_INLINE __m256i multiply_int8(const int8_t *weights, const int16_t *values) {
    __m256i low = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)weights));
    __m256i high = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(weights + 16)));
    return _mm256_add_epi32(_mm256_madd_epi16(low, load(values)), _mm256_madd_epi16(high, load(values + 16)));
}

/* Of 4 blocks: 4 sums of their lower halves, and 4 of their upper ones. */
AVX2_INLINE __m256i multiply_int8_four(const int8_t *weights, const int16_t *values) {
    __m256i parts[4];
    for (int i = 0; i < 4; i++) parts[i] = multiply_int8(weights + i * BLOCK, values + i * BLOCK);
    return add_neighbours(add_neighbours(parts[0], parts[1]), add_neighbours(parts[2], parts[3]));
}

AVX2 static float dot_int8(const int8_t *weights, const uint8_t *weight_factors, const int16_t *values,
                           const float *factors, int64_t n) {
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

AVX2_INLINE void multiply_floats(float *sums, int64_t stride, const float *rows, const float *x, int64_t x_stride,
                                 int64_t n, const int tokens) {
    __m256 parts[TOKENS][SIDE];
    for (int t = 0; t < tokens; t++)
        for (int row = 0; row < SIDE; row++) parts[t][row] = _mm256_setzero_ps();
    for (int64_t i = 0; i < n; i += 8) {
        __m256 inputs[TOKENS];
        for (int t = 0; t < tokens; t++) inputs[t] = _mm256_loadu_ps(x + t * x_stride + i);
        for (int row = 0; row < SIDE; row++) {
            __m256 weights = _mm256_loadu_ps(rows + row * n + i);
            for (int t = 0; t < tokens; t++) parts[t][row] = _mm256_fmadd_ps(weights, inputs[t], parts[t][row]);
        }
    }
    for (int t = 0; t < tokens; t++)
        for (int row = 0; row < SIDE; row++) sums[t * stride + row] += sum_of(parts[t][row]);
}

/* 4 rows by 3 tokens: 12 sums, 3 inputs and a row are all the registers there are. */
AVX2 static void tile_float(float *sums, int64_t stride, const float *rows, const float *x, int64_t x_stride,
                            int64_t tokens, int64_t n) {
    int64_t t = 0;
    for (; t + TOKENS <= tokens; t += TOKENS)
        multiply_floats(sums + t * stride, stride, rows, x + t * x_stride, x_stride, n, TOKENS);
    sums += t * stride, x += t * x_stride;
    if (tokens - t == 2) multiply_floats(sums, stride, rows, x, x_stride, n, 2);
    if (tokens - t == 1) multiply_floats(sums, stride, rows, x, x_stride, n, 1);
}

AVX2 static float scores(float *out, const float *q, const float *keys, int64_t count, int64_t d) {
    float most = -INFINITY;
    for (int64_t i = 0; i < count; i++) {
        __m256 sum = _mm256_setzero_ps(), other = _mm256_setzero_ps();
        const float *key = keys + i * d;
        int64_t j = 0;
        for (; j + 16 <= d; j += 16) {
            sum = _mm256_fmadd_ps(_mm256_loadu_ps(q + j), _mm256_loadu_ps(key + j), sum);
            other = _mm256_fmadd_ps(_mm256_loadu_ps(q + j + 8), _mm256_loadu_ps(key + j + 8), other);
        }
        if (j < d) sum = _mm256_fmadd_ps(_mm256_loadu_ps(q + j), _mm256_loadu_ps(key + j), sum);
        out[i] = sum_of(_mm256_add_ps(sum, other));
        if (out[i] > most) most = out[i];
    }
    return most;
}

/* e^x for x <= 0, to two units in the last place: 2^n times a polynomial of the rest, |rest| <= ln(2) / 2. */
AVX2_INLINE __m256 exponential(__m256 x) {
    __m256 nan = _mm256_cmp_ps(x, x, _CMP_UNORD_Q);
    __m256 bounded = _mm256_max_ps(_mm256_min_ps(x, _mm256_setzero_ps()), _mm256_set1_ps(-87.0f));
    __m256 n = _mm256_round_ps(_mm256_mul_ps(bounded, _mm256_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT);
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693145752f), bounded); /* ln(2) in two parts */
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(1.42860682e-6f), r);
    const float inverse_factorials[] = {1 / 720.0f, 1 / 120.0f, 1 / 24.0f, 1 / 6.0f, 0.5f, 1.0f, 1.0f};
    __m256 sum = _mm256_set1_ps(1 / 5040.0f);
    for (int i = 0; i < 7; i++) sum = _mm256_fmadd_ps(sum, r, _mm256_set1_ps(inverse_factorials[i]));
    __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    __m256 tiny = _mm256_cmp_ps(x, _mm256_set1_ps(-87.0f), _CMP_LT_OQ);
    __m256 result = _mm256_andnot_ps(tiny, _mm256_mul_ps(sum, _mm256_castsi256_ps(power)));
    return _mm256_blendv_ps(result, x, nan);
}

AVX2 static float exponentials(float *values, float most, int64_t count) {
    __m256 sum = _mm256_setzero_ps();
    for (int64_t i = 0; i < count; i += 8) {
        __m256 e = exponential(_mm256_sub_ps(_mm256_loadu_ps(values + i), _mm256_set1_ps(most)));
        _mm256_storeu_ps(values + i, e);
        sum = _mm256_add_ps(sum, e);
    }
    return sum_of(sum);
}

AVX2 static void accumulate(float *sums, const float *shares, const float *values, int64_t count, int64_t d) {
    int64_t j = 0;
    for (; j + 32 <= d; j += 32) {
        __m256 parts[4];
        for (int k = 0; k < 4; k++) parts[k] = _mm256_loadu_ps(sums + j + 8 * k);
        for (int64_t i = 0; i < count; i++)
            for (int k = 0; k < 4; k++)
                parts[k] = _mm256_fmadd_ps(_mm256_set1_ps(shares[i]), _mm256_loadu_ps(values + i * d + j + 8 * k),
                                           parts[k]);
        for (int k = 0; k < 4; k++) _mm256_storeu_ps(sums + j + 8 * k, parts[k]);
    }
    for (; j < d; j += 8) {
        __m256 part = _mm256_loadu_ps(sums + j);
        for (int64_t i = 0; i < count; i++)
            part = _mm256_fmadd_ps(_mm256_set1_ps(shares[i]), _mm256_loadu_ps(values + i * d + j), part);
        _mm256_storeu_ps(sums + j, part);
    }
}

/* One of so many tokens, in natural order. */
AVX2 static void pack_tile(void *to, float *factors, const float *x, int64_t blocks, int64_t tokens) {
    for (int64_t g = 0; g < blocks; g++)
        quantize((int16_t *)to + g * tokens * BLOCK, factors + g * tokens, x + g * BLOCK, 1);
}

static const Products products_int16 = {sizeof(int16_t), pack_blocks, dots, pack_tile, gptoss_avx2_tile};

const Instructions gptoss_avx2 = {
    "avx2",   &products_int16, &gptoss_avx2_int8, pack_float,   dot_bf16,   quantize, dot_mxfp4_float,
    dot_int8, tile_float,      scores,            exponentials, accumulate,
};

#endif
