/* The kernels that use AVX-512, as two tables: without and with AVX512_BF16, which the dense products use. */
#include "avx512.h"

#ifdef HAS_AVX512

static const Mxfp4Kernels int16 = {
    .block_bytes = AVX512_INT16_BYTES,
    .tile_rows = AVX512_TILE_ROWS,
    .pack = gptoss_avx512_pack_dots_int16,
    .dots = gptoss_avx512_dots_int16,
    .pack_tile = gptoss_avx512_pack_tile_int16,
    .tile = gptoss_avx512_tile_int16,
};
static const Mxfp4Kernels int8 = {
    .block_bytes = AVX512_INT8_BYTES,
    .tile_rows = AVX512_TILE_ROWS,
    .pack = gptoss_avx512_pack_dots_int8,
    .dots = gptoss_avx512_dots_int8,
    .pack_tile = gptoss_avx512_pack_tile_int8,
    .tile = gptoss_avx512_tile_int8,
};
static const Mxfp4Kernels float32 = {
    .block_bytes = BLOCK * sizeof(float),
    .pack = gptoss_avx512_pack_dots_float32,
    .dots = gptoss_avx512_dots_float32,
};

const IsaKernels gptoss_avx512 = {
    .name = "avx512",
    .int16 = &int16,
    .int8 = &int8,
    .float32 = &float32,
    .bf16_bytes = sizeof(float),
    .int8_bytes = BLOCK * sizeof(int16_t) + sizeof(float),
    .pack_bf16 = gptoss_avx2_pack_bf16,
    .dot_bf16 = gptoss_avx2_dot_bf16,
    .pack_few = gptoss_avx512_pack_few,
    .dots_few = gptoss_avx512_dots_few,
    .pack_int8 = gptoss_avx2_pack_int8,
    .dot_int8 = gptoss_avx2_dot_int8,
    .widen_bf16 = gptoss_avx2_widen_bf16,
    .widen_int8 = gptoss_avx2_widen_int8,
    .pack_float = gptoss_avx512_pack_float,
    .tile_float = gptoss_avx512_tile_float,
    .attention = &gptoss_avx512_attention,
    .swiglu = gptoss_avx512_swiglu,
};

const IsaKernels gptoss_avx512_bf16 = {
    .name = "avx512bf16",
    .int16 = &int16,
    .int8 = &int8,
    .float32 = &float32,
    .bf16_bytes = 3 * sizeof(uint16_t),
    .int8_bytes = BLOCK * sizeof(int16_t) + sizeof(float),
    .pack_bf16 = gptoss_avx512_pack_bf16,
    .dot_bf16 = gptoss_avx512_dot_bf16,
    .pack_few = gptoss_avx512_pack_few,
    .dots_few = gptoss_avx512_dots_few,
    .pack_int8 = gptoss_avx2_pack_int8,
    .dot_int8 = gptoss_avx2_dot_int8,
    .widen_bf16 = gptoss_avx2_widen_bf16,
    .widen_int8 = gptoss_avx2_widen_int8,
    .pack_float = gptoss_avx512_pack_float,
    .tile_float = gptoss_avx512_tile_float,
    .attention = &gptoss_avx512_attention,
    .swiglu = gptoss_avx512_swiglu,
};

#else

typedef int gptoss_no_avx512;

#endif
