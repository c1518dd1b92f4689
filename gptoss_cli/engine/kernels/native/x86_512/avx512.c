/* The kernels that use AVX-512, as two tables: without and with AVX512_BF16, which the dense products use. */
#include "avx512.h"

#ifdef HAS_AVX512

const IsaKernels gptoss_avx512 = {
    .name = "avx512",
    .int16 = &gptoss_avx2_int16,
    .int8 = &gptoss_avx2_int8,
    .float32 = &gptoss_avx2_float32,
    .bf16_bytes = sizeof(float),
    .int8_bytes = BLOCK * sizeof(int16_t) + sizeof(float),
    .pack_bf16 = gptoss_avx2_pack_bf16,
    .dot_bf16 = gptoss_avx2_dot_bf16,
    .pack_int8 = gptoss_avx2_pack_int8,
    .dot_int8 = gptoss_avx2_dot_int8,
    .pack_float = gptoss_avx2_pack_float,
    .tile_float = gptoss_avx2_tile_float,
    .attention = &gptoss_avx512_attention,
};

const IsaKernels gptoss_avx512_bf16 = {
    .name = "avx512bf16",
    .int16 = &gptoss_avx2_int16,
    .int8 = &gptoss_avx2_int8,
    .float32 = &gptoss_avx2_float32,
    .bf16_bytes = sizeof(float),
    .int8_bytes = BLOCK * sizeof(int16_t) + sizeof(float),
    .pack_bf16 = gptoss_avx2_pack_bf16,
    .dot_bf16 = gptoss_avx2_dot_bf16,
    .pack_int8 = gptoss_avx2_pack_int8,
    .dot_int8 = gptoss_avx2_dot_int8,
    .pack_float = gptoss_avx2_pack_float,
    .tile_float = gptoss_avx2_tile_float,
    .attention = &gptoss_avx512_attention,
};

#else

typedef int gptoss_no_avx512;

#endif
