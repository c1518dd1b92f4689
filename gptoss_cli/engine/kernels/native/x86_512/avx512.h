/* Shared by the AVX-512 files. Only these functions are compiled for AVX-512, so that the library loads on every CPU.

   They need F, BW, VL, DQ, VNNI and VBMI: Ice Lake, Zen 4 and later. Functions that also need BF16 are marked so. */
#ifndef AVX512_H
#define AVX512_H

#include "../x86/avx2.h"

#ifdef HAS_AVX512

#define AVX512_TARGET "avx2,fma,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi"
#define AVX512 __attribute__((target(AVX512_TARGET)))
#define AVX512_INLINE static inline __attribute__((target(AVX512_TARGET), always_inline))
#define AVX512_BF16 __attribute__((target(AVX512_TARGET ",avx512bf16")))
#define AVX512_BF16_INLINE static inline __attribute__((target(AVX512_TARGET ",avx512bf16"), always_inline))

/* A block of int16, in natural order, and their factor. */
typedef struct {
    __m512i values;
    float factor;
} QuantizedBlock;

/* Quantizes 32 floats, with the same results as quantize_block in scalar.c. */
AVX512_INLINE QuantizedBlock quantize_block(const float *x, float limit) {
    enum { NAN_OR_INFINITE = 0x99 };
    __m512 low = _mm512_loadu_ps(x), high = _mm512_loadu_ps(x + 16);
    int broken = _mm512_fpclass_ps_mask(low, NAN_OR_INFINITE) | _mm512_fpclass_ps_mask(high, NAN_OR_INFINITE);
    float most = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(low), _mm512_abs_ps(high)));
    float inverse = most > 0 ? limit / most : 0;
    if (broken) return (QuantizedBlock){_mm512_setzero_si512(), float_of_bits(0x7FC00000u)};
    if (inverse > 3e38f) inverse = 0;
    __m512 scale = _mm512_set1_ps(inverse);
    __m256i halves[2] = {_mm512_cvtepi32_epi16(_mm512_cvtps_epi32(_mm512_mul_ps(low, scale))),
                         _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(_mm512_mul_ps(high, scale)))};
    return (QuantizedBlock){_mm512_inserti64x4(_mm512_castsi256_si512(halves[0]), halves[1], 1), most / limit};
}

/* int16 as two signed bytes: x = 256 * high + low. */
typedef struct {
    __m512i high, low;
} Planes;

AVX512_INLINE Planes split(__m512i values) {
    __m512i low = _mm512_srai_epi16(_mm512_slli_epi16(values, 8), 8);
    return (Planes){_mm512_srai_epi16(_mm512_sub_epi16(values, low), 8), low};
}

/* 2^(scale - 127) of 16 lanes, NaN for 255. The largest of two integers repairs the subnormal 2^-127. */
AVX512_INLINE __m512 powers_of_16(__m128i scales) {
    __m512i bits = _mm512_slli_epi32(_mm512_cvtepu8_epi32(scales), 23);
    __mmask16 nan = _mm512_cmpeq_epi32_mask(bits, _mm512_set1_epi32(0x7F800000));
    bits = _mm512_max_epi32(bits, _mm512_set1_epi32(0x00400000));
    return _mm512_castsi512_ps(_mm512_mask_mov_epi32(bits, nan, _mm512_set1_epi32(0x7FC00000)));
}

/* The first `count` of `lanes` lanes, for 0 <= count. */
static inline uint64_t first_lanes(int64_t count, int64_t lanes) {
    return count >= lanes ? UINT64_MAX >> (64 - lanes) : count <= 0 ? 0 : (UINT64_C(1) << count) - 1;
}

/* Reads memory of any alignment as a series of vectors, but by whole cache lines: loads that cross lines cost a fifth
   of the bandwidth when both lines still come from memory. Reads no byte outside. */
typedef struct {
    const uint8_t *next, *end;
    __m512i last, index;
} Lines;

AVX512_INLINE Lines lines_of(const void *from, int64_t bytes) {
    const uint8_t *at = from;
    int64_t shift = (int64_t)((uintptr_t)at % LINE);
    _Alignas(LINE) static const uint8_t counting[LINE] = {
        0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21,
        22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43,
        44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63};
    __mmask64 known = first_lanes(bytes + shift, LINE) & ~first_lanes(shift, LINE);
    return (Lines){at - shift + LINE, at + bytes, _mm512_maskz_loadu_epi8(known, at - shift),
                   _mm512_add_epi8(_mm512_load_si512(counting), _mm512_set1_epi8((char)shift))};
}

/* How many times next_vector may be called. */
AVX512_INLINE int64_t whole_vectors(const Lines *lines) { return (lines->end - lines->next) / LINE; }

AVX512_INLINE __m512i next_vector(Lines *lines) {
    __m512i line = _mm512_load_si512(lines->next);
    __m512i vector = _mm512_permutex2var_epi8(lines->last, lines->index, line);
    lines->last = line, lines->next += LINE;
    return vector;
}

/* The next vector near the end, with zeros after it. */
AVX512_INLINE __m512i last_vector(Lines *lines) {
    int64_t left = lines->end - lines->next;
    __m512i line = left > 0 ? _mm512_maskz_loadu_epi8(first_lanes(left, LINE), lines->next) : _mm512_setzero_si512();
    __m512i vector = _mm512_permutex2var_epi8(lines->last, lines->index, line);
    lines->last = line, lines->next += LINE;
    return vector;
}

/* The first needs no BF16, but only the second understands what it packs. */
void gptoss_avx512_pack_bf16(void *packed, const float *x, int64_t n);
float gptoss_avx512_dot_bf16(const uint8_t *weights, const void *packed, int64_t n);
void gptoss_avx512_pack_few(float *packed, const float *x, int64_t n);
void gptoss_avx512_dots_few(float *sums, const uint8_t *weights, int64_t rows, const float *packed, int64_t n,
                            int64_t tokens);

void gptoss_avx512_pack_float(float *packed, const float *x, int64_t columns, int64_t padded, int64_t tokens);
void gptoss_avx512_tile_float(float *sums, const float *rows, const float *packed, int64_t padded, int64_t start,
                              int64_t n, int64_t tokens);

/* For the tables of MXFP4 kernels: packed bytes of a block, and rows of a tile. */
enum { AVX512_INT16_BYTES = 96, AVX512_INT8_BYTES = 64, AVX512_TILE_ROWS = 32 };

void gptoss_avx512_pack_dots_int16(void *packed, const float *x, int64_t blocks);
void gptoss_avx512_pack_dots_int8(void *packed, const float *x, int64_t blocks);
void gptoss_avx512_dots_int16(float *sums, const uint8_t *blocks, const uint8_t *scales, int64_t rows,
                              const void *packed, int64_t n, int64_t tokens);
void gptoss_avx512_dots_int8(float *sums, const uint8_t *blocks, const uint8_t *scales, int64_t rows,
                             const void *packed, int64_t n, int64_t tokens);
void gptoss_avx512_pack_dots_float32(void *packed, const float *x, int64_t blocks);
void gptoss_avx512_dots_float32(float *sums, const uint8_t *blocks, const uint8_t *scales, int64_t rows,
                                const void *packed, int64_t n, int64_t tokens);
void gptoss_avx512_pack_tile_int16(void *packed, const float *x, int64_t blocks, int64_t token, int64_t tokens);
void gptoss_avx512_pack_tile_int8(void *packed, const float *x, int64_t blocks, int64_t token, int64_t tokens);
void gptoss_avx512_tile_int16(float *sums, const uint8_t *blocks, const uint8_t *scales, int64_t n, const void *packed,
                              int64_t tokens);
void gptoss_avx512_tile_int8(float *sums, const uint8_t *blocks, const uint8_t *scales, int64_t n, const void *packed,
                             int64_t tokens);

void gptoss_avx512_swiglu(float *hidden, const float *pairs, int64_t n, float limit);
extern const AttentionKernels gptoss_avx512_attention;

#endif

#endif
