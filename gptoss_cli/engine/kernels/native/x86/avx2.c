/* The kernels that use AVX2 and FMA, as one table. */
#include "avx2.h"

#ifdef HAS_AVX2

const IsaKernels gptoss_avx2 = {
    "avx2",
    &gptoss_avx2_int16,
    &gptoss_avx2_int8,
    gptoss_avx2_pack_float,
    gptoss_avx2_dot_bf16,
    gptoss_avx2_quantize,
    gptoss_avx2_dot_mxfp4_float,
    gptoss_avx2_dot_int8,
    gptoss_avx2_tile_float,
    &gptoss_avx2_attention,
};

#else

typedef int gptoss_no_avx2;

#endif
