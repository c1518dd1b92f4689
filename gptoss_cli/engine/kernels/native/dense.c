/* Products with matrices in bf16 or int8, with the norm before them and the residual after them. */
#include <math.h>
#include <stdlib.h>

#include "gptoss.h"

enum { CHUNK_ROWS = 32 };

/* Activations in the two forms that matrices take them in; `stride` elements a token. */
typedef struct {
    float *floats;
    int16_t *values;
    float *factors;
    int64_t stride;
} Packed;

/* RMSNorm: x / sqrt(mean(x^2) + eps) * weight. */
static void normalize(float *out, const float *x, const uint8_t *weight, float eps, int64_t n) {
    float parts[16] = {0};
    int64_t i = 0;
    for (; i + 16 <= n; i += 16)
        for (int64_t j = 0; j < 16; j++) parts[j] += x[i + j] * x[i + j];
    for (; i < n; i++) parts[0] += x[i] * x[i];
    double sum = 0;
    for (int64_t j = 0; j < 16; j++) sum += parts[j];
    float scale = 1.0f / sqrtf((float)(sum / (double)n) + eps);
    for (i = 0; i < n; i++) out[i] = x[i] * scale * load_bf16(weight, i);
}

static void pack(const Instructions *use, const Packed *packed, const float *x, int64_t token, int64_t columns) {
    int64_t at = token * packed->stride;
    if (packed->floats) use->pack_float(packed->floats + at, x, columns);
    if (!packed->values) return;
    int64_t whole = columns / BLOCK, rest = columns % BLOCK;
    use->quantize(packed->values + at, packed->factors + at / BLOCK, x, whole);
    if (rest) {
        float last[BLOCK] = {0};
        memcpy(last, x + whole * BLOCK, (size_t)rest * sizeof *last);
        at += whole * BLOCK;
        use->quantize(packed->values + at, packed->factors + at / BLOCK, last, 1);
    }
}

static float dot(const Instructions *use, const Matrix *m, int64_t row, const Packed *packed, int64_t token,
                 int64_t columns) {
    int64_t at = token * packed->stride, blocks = packed->stride / BLOCK;
    float bias = m->bias ? load_bf16(m->bias, row) : 0;
    if (!m->factors) return bias + use->dot_bf16(m->weight + 2 * row * columns, packed->floats + at, columns);
    return bias + use->dot_int8((const int8_t *)m->weight + row * packed->stride, m->factors + 2 * row * blocks,
                                packed->values + at, packed->factors + at / BLOCK, blocks);
}

static int reserve(Packed *packed, const Matrix *matrices, int64_t count, int64_t tokens, int64_t columns) {
    int bf16 = 0, int8 = 0;
    for (int64_t i = 0; i < count; i++) *(matrices[i].factors ? &int8 : &bf16) = 1;
    *packed = (Packed){NULL, NULL, NULL, (columns + BLOCK - 1) / BLOCK * BLOCK};
    size_t cells = (size_t)(tokens * packed->stride);
    if (bf16) packed->floats = malloc(cells * sizeof *packed->floats);
    if (int8) packed->values = malloc(cells * sizeof *packed->values);
    if (int8) packed->factors = malloc(cells / BLOCK * sizeof *packed->factors);
    return (!bf16 || packed->floats) && (!int8 || (packed->values && packed->factors));
}

/* Rows from `start` of all matrices stacked, CHUNK_ROWS of them at most, for every token. */
static void multiply(const Instructions *use, float *y, const float *residual, const Matrix *m, const Packed *packed,
                     int64_t start, int64_t tokens, int64_t columns) {
    int64_t end = start + CHUNK_ROWS < m->rows ? start + CHUNK_ROWS : m->rows;
    for (int64_t row = start; row < end; row++)
        for (int64_t t = 0; t < tokens; t++) {
            int64_t at = t * m->rows + row;
            y[at] = dot(use, m, row, packed, t, columns) + (residual ? residual[at] : 0);
        }
}

/* y = x @ weight.T + bias of each of `count` matrices, one result [tokens, rows] after the other.

   x [tokens, columns] goes through RMSNorm with `norm` [columns] bf16 before it, unless that is NULL, and into `normed`
   [tokens, columns], unless that is NULL. `residual` [tokens, rows] is added to a single matrix's result, unless NULL.
   Returns 0 if there is no memory. */
EXPORT int gptoss_dense(float *y, float *normed, const float *x, const uint8_t *norm, const float *residual,
                        const Matrix *matrices, int64_t count, int64_t tokens, int64_t columns, float eps,
                        int threads) {
    const Instructions *use = gptoss_instructions();
    Packed packed;
    float *scratch = norm && !normed ? malloc((size_t)(tokens * columns) * sizeof *scratch) : NULL;
    float *inputs = normed ? normed : scratch;
    int64_t chunks = 0;
    for (int64_t i = 0; i < count; i++) chunks += (matrices[i].rows + CHUNK_ROWS - 1) / CHUNK_ROWS;
    int reserved = reserve(&packed, matrices, count, tokens, columns) && (!norm || inputs);
    (void)threads;
#pragma omp parallel num_threads(threads) if (reserved)
    {
#pragma omp for schedule(static)
        for (int64_t t = 0; t < (reserved ? tokens : 0); t++) {
            const float *from = x + t * columns;
            if (norm) normalize(inputs + t * columns, from, norm, eps, columns);
            pack(use, &packed, norm ? inputs + t * columns : from, t, columns);
        }
#pragma omp for schedule(dynamic, 1)
        for (int64_t chunk = 0; chunk < (reserved ? chunks : 0); chunk++) {
            const Matrix *m = matrices;
            int64_t before = 0, done = 0;
            for (int64_t here; chunk >= before + (here = (m->rows + CHUNK_ROWS - 1) / CHUNK_ROWS); m++) {
                before += here;
                done += m->rows * tokens;
            }
            multiply(use, y + done, residual, m, &packed, (chunk - before) * CHUNK_ROWS, tokens, columns);
        }
    }
    free(packed.floats), free(packed.values), free(packed.factors), free(scratch);
    return reserved;
}
