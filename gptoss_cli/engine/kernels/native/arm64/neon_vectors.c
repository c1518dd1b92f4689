/* Attention and SwiGLU in NEON: 8 floats at once, as two vectors. */
#include "neon.h"

#ifdef HAS_NEON

#include <math.h>
#include <stddef.h>

#define FUNCTION
#define INLINE static inline __attribute__((always_inline))

enum { HALF = 4, LANES = 2 * HALF, BLOCK_ROWS = 4 };

typedef struct {
    float32x4_t low, high;
} Vector;

typedef struct {
    uint32x4_t low, high;
} Integers;

INLINE Vector broadcast(float value) { return (Vector){vdupq_n_f32(value), vdupq_n_f32(value)}; }
INLINE Vector zeros(void) { return broadcast(0); }
INLINE Vector load_floats(const float *from) { return (Vector){vld1q_f32(from), vld1q_f32(from + HALF)}; }
INLINE void store(float *to, Vector v) { vst1q_f32(to, v.low), vst1q_f32(to + HALF, v.high); }

INLINE Vector multiply_add(Vector a, Vector b, Vector c) {
    return (Vector){vfmaq_f32(c.low, a.low, b.low), vfmaq_f32(c.high, a.high, b.high)};
}

INLINE Vector add(Vector a, Vector b) { return (Vector){vaddq_f32(a.low, b.low), vaddq_f32(a.high, b.high)}; }
INLINE Vector subtract(Vector a, Vector b) { return (Vector){vsubq_f32(a.low, b.low), vsubq_f32(a.high, b.high)}; }
INLINE Vector larger(Vector a, Vector b) { return (Vector){vmaxq_f32(a.low, b.low), vmaxq_f32(a.high, b.high)}; }

INLINE Vector floats_of(Integers v) {
    return (Vector){vreinterpretq_f32_u32(v.low), vreinterpretq_f32_u32(v.high)};
}

INLINE Vector evens_of(Integers v) { return floats_of((Integers){vshlq_n_u32(v.low, 16), vshlq_n_u32(v.high, 16)}); }

INLINE Vector odds_of(Integers v) {
    const uint32x4_t upper = vdupq_n_u32(0xFFFF0000u);
    return floats_of((Integers){vandq_u32(v.low, upper), vandq_u32(v.high, upper)});
}

/* `left` words or as many as there are lanes, and zeros. */
INLINE Integers load_words(const uint8_t *from, int64_t left) {
    uint8_t some[4 * LANES] = {0};
    if (left < LANES && left > 0) memcpy(some, from, (size_t)(4 * left));
    const uint8_t *words = left < LANES ? some : from;
    return (Integers){vreinterpretq_u32_u8(vld1q_u8(words)), vreinterpretq_u32_u8(vld1q_u8(words + 16))};
}

INLINE float sum_lanes(Vector v) { return vaddvq_f32(vaddq_f32(v.low, v.high)); }
INLINE float largest_lane(Vector v) { return vmaxvq_f32(vmaxq_f32(v.low, v.high)); }

/* Even and odd elements -> the first half and the second. */
INLINE void interleave(Vector *evens, Vector *odds) {
    Vector e = *evens, o = *odds;
    *evens = (Vector){vzip1q_f32(e.low, o.low), vzip2q_f32(e.low, o.low)};
    *odds = (Vector){vzip1q_f32(e.high, o.high), vzip2q_f32(e.high, o.high)};
}

/* Word w of row r -> word r of row w, of 4 x 4 words. */
INLINE void transpose_four(uint32x4_t rows[HALF]) {
    uint64x2_t pairs[HALF];
    for (int i = 0; i < HALF; i += 2) {
        pairs[i] = vreinterpretq_u64_u32(vzip1q_u32(rows[i], rows[i + 1]));
        pairs[i + 1] = vreinterpretq_u64_u32(vzip2q_u32(rows[i], rows[i + 1]));
    }
    for (int i = 0; i < 2; i++) {
        rows[2 * i] = vreinterpretq_u32_u64(vzip1q_u64(pairs[i], pairs[i + 2]));
        rows[2 * i + 1] = vreinterpretq_u32_u64(vzip2q_u64(pairs[i], pairs[i + 2]));
    }
}

/* The four quarters of 8 x 8 words, of which two change places. */
INLINE void transpose(Integers rows[LANES]) {
    uint32x4_t quarters[4][HALF];
    for (int i = 0; i < HALF; i++) {
        quarters[0][i] = rows[i].low, quarters[1][i] = rows[i + HALF].low;
        quarters[2][i] = rows[i].high, quarters[3][i] = rows[i + HALF].high;
    }
    for (int i = 0; i < 4; i++) transpose_four(quarters[i]);
    for (int i = 0; i < HALF; i++) {
        rows[i] = (Integers){quarters[0][i], quarters[1][i]};
        rows[i + HALF] = (Integers){quarters[2][i], quarters[3][i]};
    }
}

/* e^x for x <= 0, to two units in the last place: 2^n times a polynomial of the rest, |rest| <= ln(2) / 2. */
INLINE float32x4_t exponential_of_four(float32x4_t x) {
    const float inverse_factorials[] = {1 / 720.0f, 1 / 120.0f, 1 / 24.0f, 1 / 6.0f, 0.5f, 1.0f, 1.0f};
    float32x4_t bounded = vmaxq_f32(vminq_f32(x, vdupq_n_f32(0)), vdupq_n_f32(-87.0f)); /* NaN stays NaN */
    float32x4_t n = vrndnq_f32(vmulq_n_f32(bounded, 1.44269504f));
    float32x4_t r = vfmsq_n_f32(bounded, n, 0.693145752f); /* ln(2) in two parts */
    r = vfmsq_n_f32(r, n, 1.42860682e-6f);
    float32x4_t sum = vdupq_n_f32(1 / 5040.0f);
    for (int i = 0; i < 7; i++) sum = vfmaq_f32(vdupq_n_f32(inverse_factorials[i]), sum, r);
    int32x4_t power = vshlq_n_s32(vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127)), 23);
    uint32x4_t tiny = vcltq_f32(x, vdupq_n_f32(-87.0f));
    float32x4_t result = vmulq_f32(sum, vreinterpretq_f32_s32(power));
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(result), tiny));
}

INLINE Vector exponential(Vector x) { return (Vector){exponential_of_four(x.low), exponential_of_four(x.high)}; }

INLINE Vector smaller(Vector a, Vector b) { return (Vector){vminq_f32(a.low, b.low), vminq_f32(a.high, b.high)}; }
INLINE Vector divide(Vector a, Vector b) { return (Vector){vdivq_f32(a.low, b.low), vdivq_f32(a.high, b.high)}; }

INLINE float32x4_t select_four(float32x4_t x, float32x4_t a, float32x4_t b) {
    return vbslq_f32(vcltzq_s32(vreinterpretq_s32_f32(x)), a, b);
}

INLINE Vector select_negative(Vector x, Vector a, Vector b) {
    return (Vector){select_four(x.low, a.low, b.low), select_four(x.high, a.high, b.high)};
}

/* 2 * LANES floats -> the even ones and the odd ones. */
INLINE void deinterleave(Vector *evens, Vector *odds, const float *from) {
    float32x4x2_t first = vld2q_f32(from), second = vld2q_f32(from + LANES);
    *evens = (Vector){first.val[0], second.val[0]}, *odds = (Vector){first.val[1], second.val[1]};
}

#include "../attention_lanes.h"
#include "../swiglu_lanes.h"

const AttentionKernels gptoss_neon_attention = {transpose_keys, attend_chunk};

void gptoss_neon_swiglu(float *hidden, const float *pairs, int64_t n, float limit) { swiglu(hidden, pairs, n, limit); }

#else

typedef int gptoss_no_neon_vectors;

#endif
