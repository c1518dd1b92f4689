/* Products of MXFP4 rows with DotProd. */
#include "neon.h"

#ifdef HAS_DOTPROD

#define FUNCTION DOTPROD
#define INLINE static inline __attribute__((always_inline)) DOTPROD

INLINE int32x4_t dot(int32x4_t sums, int8x16_t weights, int8x16_t x) { return vdotq_s32(sums, weights, x); }

#include "mxfp4_products.h"

void gptoss_dotprod_dots_int16(float *sums, const uint8_t *blocks, const uint8_t *scales, int64_t rows,
                               const void *packed, int64_t n, int64_t tokens) {
    dots_int16(sums, blocks, scales, rows, packed, n, tokens);
}

void gptoss_dotprod_dots_int8(float *sums, const uint8_t *blocks, const uint8_t *scales, int64_t rows,
                              const void *packed, int64_t n, int64_t tokens) {
    dots_int8(sums, blocks, scales, rows, packed, n, tokens);
}

const Mxfp4Kernels gptoss_dotprod_int16 = {
    PLANES_INT16 * PLANE + sizeof(float), TILE_ROWS,  gptoss_neon_pack_mxfp4_int16, dots_int16,
    gptoss_neon_pack_tile_int16,          tile_int16,
};
const Mxfp4Kernels gptoss_dotprod_int8 = {
    PLANES_INT8 * PLANE + sizeof(float), TILE_ROWS, gptoss_neon_pack_mxfp4_int8, dots_int8,
    gptoss_neon_pack_tile_int8,          tile_int8,
};

#else

typedef int gptoss_no_dotprod;

#endif
