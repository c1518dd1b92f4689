/* Mxfp4Kernels with matrices in bf16 or int8, with the norm before them and the residual after them. */
#include <math.h>
#include <stdlib.h>

#include "gptoss.h"

/* Up to FEW_TOKENS each row is multiplied by each token as it lies; of more, STRIP columns of it are made float32. */
enum { CHUNK_ROWS = 32, FEW_TOKENS = 8, SOME_TOKENS = 6, STRIP = 1024 };

/* Activations in the forms that matrices take them in; `stride` elements a token. */
typedef struct {
    float *floats; /* as they are for many tokens, with zeros at the end; else as pack_float makes them */
    int16_t *values;
    float *factors;
    int64_t stride;
    int many;
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

static void pack(const IsaKernels *use, const Packed *packed, const float *x, int64_t token, int64_t columns) {
    int64_t at = token * packed->stride;
    if (packed->many) {
        memcpy(packed->floats + at, x, (size_t)columns * sizeof *x);
        memset(packed->floats + at + columns, 0, (size_t)(packed->stride - columns) * sizeof *x);
        return;
    }
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

static float dot(const IsaKernels *use, const Matrix *m, int64_t row, const Packed *packed, int64_t token,
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
    *packed = (Packed){NULL, NULL, NULL, (columns + BLOCK - 1) / BLOCK * BLOCK, tokens > FEW_TOKENS};
    if (packed->many) bf16 = 1, int8 = 0;
    size_t cells = (size_t)(tokens * packed->stride);
    if (bf16) packed->floats = malloc(cells * sizeof *packed->floats);
    if (int8) packed->values = malloc(cells * sizeof *packed->values);
    if (int8) packed->factors = malloc(cells / BLOCK * sizeof *packed->factors);
    return (!bf16 || packed->floats) && (!int8 || (packed->values && packed->factors));
}

/* Rows from `start` of all matrices stacked, CHUNK_ROWS of them at most, for every token. */
static void multiply(const IsaKernels *use, float *y, const float *residual, const Matrix *m, const Packed *packed,
                     int64_t start, int64_t tokens, int64_t columns) {
    int64_t end = start + CHUNK_ROWS < m->rows ? start + CHUNK_ROWS : m->rows;
    for (int64_t row = start; row < end; row++)
        for (int64_t t = 0; t < tokens; t++) {
            int64_t at = t * m->rows + row;
            y[at] = dot(use, m, row, packed, t, columns) + (residual ? residual[at] : 0);
        }
}

/* Columns [start, start + n) of CHUNK_ROWS rows as float32 [CHUNK_ROWS, n]: zeros where the matrix has ended. */
static void widen(float *out, const Matrix *m, int64_t row, int64_t start, int64_t n, int64_t columns) {
    int64_t blocks = (columns + BLOCK - 1) / BLOCK, left = columns - start, known = left < n ? left : n;
    for (int64_t r = 0; r < CHUNK_ROWS; r++, row++, out += n) {
        if (row >= m->rows) {
            memset(out, 0, (size_t)n * sizeof *out);
        } else if (!m->factors) {
            const uint8_t *from = m->weight + 2 * (row * columns + start);
            for (int64_t i = 0; i < known; i++) out[i] = load_bf16(from, i);
            memset(out + known, 0, (size_t)(n - known) * sizeof *out);
        } else {
            const int8_t *from = (const int8_t *)m->weight + row * blocks * BLOCK + start;
            for (int64_t g = 0; g < n / BLOCK; g++) {
                float factor = load_bf16(m->factors, row * blocks + start / BLOCK + g);
                for (int64_t i = 0; i < BLOCK; i++) out[g * BLOCK + i] = (float)from[g * BLOCK + i] * factor;
            }
        }
    }
}

/* Rows from `start` of all matrices stacked, CHUNK_ROWS of them at most, for many tokens. `room` is for widened rows
   [CHUNK_ROWS, STRIP] and then sums [tokens, CHUNK_ROWS]. */
static void multiply_many(const IsaKernels *use, float *y, const float *residual, const Matrix *m,
                          const Packed *packed, int64_t start, int64_t tokens, int64_t columns, float *room) {
    int64_t rows = m->rows - start < CHUNK_ROWS ? m->rows - start : CHUNK_ROWS;
    float *sums = room + CHUNK_ROWS * STRIP;
    memset(sums, 0, (size_t)(tokens * CHUNK_ROWS) * sizeof *sums);
    for (int64_t strip = 0; strip < packed->stride; strip += STRIP) {
        int64_t n = packed->stride - strip < STRIP ? packed->stride - strip : STRIP;
        widen(room, m, start, strip, n, columns);
        for (int64_t t = 0; t < tokens; t += SOME_TOKENS)
            for (int64_t row = 0; row < rows; row += SIDE)
                use->tile_float(sums + t * CHUNK_ROWS + row, CHUNK_ROWS, room + row * n,
                                packed->floats + t * packed->stride + strip, packed->stride,
                                tokens - t < SOME_TOKENS ? tokens - t : SOME_TOKENS, n);
    }
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t row = 0; row < rows; row++) {
            int64_t at = t * m->rows + start + row;
            float bias = m->bias ? load_bf16(m->bias, start + row) : 0;
            y[at] = bias + sums[t * CHUNK_ROWS + row] + (residual ? residual[at] : 0);
        }
}

/* y = x @ weight.T + bias of each of `count` matrices, one result [tokens, rows] after the other.

   x [tokens, columns] goes through RMSNorm with `norm` [columns] bf16 before it, unless that is NULL, and into `normed`
   [tokens, columns], unless that is NULL. `residual` [tokens, rows] is added to a single matrix's result, unless NULL.
   Returns 0 if there is no memory. */
EXPORT int gptoss_dense(float *y, float *normed, const float *x, const uint8_t *norm, const float *residual,
                        const Matrix *matrices, int64_t count, int64_t tokens, int64_t columns, float eps,
                        int threads) {
    const IsaKernels *use = gptoss_kernels();
    Packed packed;
    float *scratch = norm && !normed ? malloc((size_t)(tokens * columns) * sizeof *scratch) : NULL;
    float *inputs = normed ? normed : scratch;
    int64_t chunks = 0;
    for (int64_t i = 0; i < count; i++) chunks += (matrices[i].rows + CHUNK_ROWS - 1) / CHUNK_ROWS;
    int failed = !reserve(&packed, matrices, count, tokens, columns) || (norm && !inputs);
    size_t room_bytes = (size_t)(CHUNK_ROWS * (STRIP + tokens)) * sizeof(float);
    (void)threads;
#pragma omp parallel num_threads(threads) if (!failed)
    {
        float *room = packed.many ? malloc(room_bytes) : NULL;
        if (packed.many && !room) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp barrier
#pragma omp for schedule(static)
        for (int64_t t = 0; t < (failed ? 0 : tokens); t++) {
            const float *from = x + t * columns;
            if (norm) normalize(inputs + t * columns, from, norm, eps, columns);
            pack(use, &packed, norm ? inputs + t * columns : from, t, columns);
        }
#pragma omp for schedule(dynamic, 1)
        for (int64_t chunk = 0; chunk < (failed ? 0 : chunks); chunk++) {
            const Matrix *m = matrices;
            int64_t before = 0, done = 0;
            for (int64_t here; chunk >= before + (here = (m->rows + CHUNK_ROWS - 1) / CHUNK_ROWS); m++) {
                before += here;
                done += m->rows * tokens;
            }
            int64_t start = (chunk - before) * CHUNK_ROWS;
            if (packed.many) {
                multiply_many(use, y + done, residual, m, &packed, start, tokens, columns, room);
            } else {
                multiply(use, y + done, residual, m, &packed, start, tokens, columns);
            }
        }
        free(room);
    }
    free(packed.floats), free(packed.values), free(packed.factors), free(scratch);
    return !failed;
}
