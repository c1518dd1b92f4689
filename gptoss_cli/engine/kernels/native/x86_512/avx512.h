/* What the files in AVX-512 share. Only these functions are compiled for it, so that the library loads everywhere.

   They need F, BW, VL, DQ, VNNI and VBMI: Ice Lake, Zen 4 and later. What needs BF16 as well is marked so. */
#ifndef AVX512_H
#define AVX512_H

#include "../x86/avx2.h"

#ifdef HAS_AVX512

#define AVX512_TARGET "avx2,fma,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi"
#define AVX512 __attribute__((target(AVX512_TARGET)))
#define AVX512_INLINE static inline __attribute__((target(AVX512_TARGET), always_inline))
#define AVX512_BF16 __attribute__((target(AVX512_TARGET ",avx512bf16")))
#define AVX512_BF16_INLINE static inline __attribute__((target(AVX512_TARGET ",avx512bf16"), always_inline))

extern const AttentionKernels gptoss_avx512_attention;

#endif

#endif
