/* The kernels for arm64 as three tables: NEON alone, with DotProd, and with I8MM too. */
#include "neon.h"

#ifdef HAS_NEON

#define SHARED                                                                                                 \
    .float32 = &gptoss_neon_float32, .bf16_bytes = sizeof(float),                                              \
    .int8_bytes = BLOCK * sizeof(int16_t) + sizeof(float), .pack_bf16 = gptoss_neon_pack_bf16,                 \
    .dot_bf16 = gptoss_neon_dot_bf16, .pack_int8 = gptoss_neon_pack_int8, .dot_int8 = gptoss_neon_dot_int8,    \
    .widen_bf16 = gptoss_neon_widen_bf16, .widen_int8 = gptoss_neon_widen_int8,                                \
    .pack_float = gptoss_neon_pack_float, .tile_float = gptoss_neon_tile_float,                                \
    .attention = &gptoss_neon_attention, .swiglu = gptoss_neon_swiglu

const IsaKernels gptoss_neon = {.name = "neon", .int16 = &gptoss_neon_int16, .int8 = &gptoss_neon_int8, SHARED};
#ifdef HAS_DOTPROD
const IsaKernels gptoss_dotprod = {
    .name = "dotprod", .int16 = &gptoss_dotprod_int16, .int8 = &gptoss_dotprod_int8, SHARED};
#endif
#ifdef HAS_I8MM
const IsaKernels gptoss_i8mm = {.name = "i8mm", .int16 = &gptoss_i8mm_int16, .int8 = &gptoss_i8mm_int8, SHARED};
#endif

#else

typedef int gptoss_no_neon;

#endif
