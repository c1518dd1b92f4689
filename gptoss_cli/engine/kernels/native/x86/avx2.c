/* The kernels that use AVX2 and FMA, as one table. */
#include "avx2.h"

#ifdef HAS_AVX2

const IsaKernels gptoss_avx2 = {
    .name = "avx2",
    .int16 = &gptoss_avx2_int16,
    .int8 = &gptoss_avx2_int8,
    .float32 = &gptoss_avx2_float32,
    .bf16_bytes = sizeof(float),
    .int8_bytes = BLOCK * sizeof(int16_t) + sizeof(float),
    .pack_bf16 = gptoss_avx2_pack_bf16,
    .dot_bf16 = gptoss_avx2_dot_bf16,
    .pack_int8 = gptoss_avx2_pack_int8,
    .dot_int8 = gptoss_avx2_dot_int8,
    .widen_bf16 = gptoss_avx2_widen_bf16,
    .widen_int8 = gptoss_avx2_widen_int8,
    .pack_float = gptoss_avx2_pack_float,
    .tile_float = gptoss_avx2_tile_float,
    .attention = &gptoss_avx2_attention,
    .swiglu = gptoss_avx2_swiglu,
};

#else

typedef int gptoss_no_avx2;

#endif
