/* Products with matrices in bf16 or int8, with the norm before them and the residual after them. */
#include <math.h>
#include <stdlib.h>

#include "gptoss.h"

/* Up to FEW_TOKENS tokens, rows are multiplied as they are; for more, strips of them are converted to float32. */
enum { CHUNK_ROWS = 32, FEW_TOKENS = 8 };

/* One call of gptoss_dense. Activations are packed for dot_bf16 or dots_few and for dot_int8, whichever are needed, if
   there are few tokens, and for tile_float if there are many. */
typedef struct {
    const IsaKernels *use;
    float *y;
    const float *x, *residual;
    float *normed;
    const uint8_t *norm;
    const Matrix *matrices;
    int64_t count, tokens, columns;
    float eps;
    int many, several; /* several: dots_few */
    int64_t padded;                 /* columns */
    int64_t bf16_bytes, int8_bytes; /* of a packed token, 0 if there is no such matrix */
    char *memory, *bf16, *int8;
    float *floats, *rooms; /* rooms are one of room_floats for each thread */
    int64_t room_floats;
} Dense;

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

/* x, normalized if there is a norm. */
static const float *input(const Dense *d, int64_t token) {
    const float *x = d->x + token * d->columns;
    if (!d->norm) return x;
    normalize(d->normed + token * d->columns, x, d->norm, d->eps, d->columns);
    return d->normed + token * d->columns;
}

static void pack_token(void *context, int64_t token, int thread) {
    const Dense *d = context;
    const float *x = input(d, token);
    (void)thread;
    char *packed = d->bf16 + token * d->bf16_bytes;
    if (d->bf16_bytes && d->several) d->use->pack_few((float *)packed, x, d->columns);
    if (d->bf16_bytes && !d->several) d->use->pack_bf16(packed, x, d->columns);
    if (!d->int8_bytes) return;
    int64_t whole = d->columns / BLOCK, rest = d->columns % BLOCK;
    float *copy = (float *)(d->int8 + d->tokens * d->int8_bytes) + token * d->padded;
    if (rest) { /* quantized in whole blocks: the last one ends in zeros */
        memcpy(copy, x, (size_t)d->columns * sizeof *copy);
        memset(copy + d->columns, 0, (size_t)(BLOCK - rest) * sizeof *copy);
    }
    d->use->pack_int8(d->int8 + token * d->int8_bytes, rest ? copy : x, whole + (rest > 0));
}

static void pack_group(void *context, int64_t group, int thread) {
    const Dense *d = context;
    int64_t first = group * DENSE_TOKENS, left = d->tokens - first, tokens = left < DENSE_TOKENS ? left : DENSE_TOKENS;
    (void)thread;
    if (d->norm)
        for (int64_t t = 0; t < tokens; t++) input(d, first + t);
    d->use->pack_float(d->floats + first * d->padded, (d->norm ? d->normed : d->x) + first * d->columns, d->columns,
                       d->padded, tokens);
}

static float dot(const Dense *d, const Matrix *m, int64_t row, int64_t token) {
    if (!m->factors)
        return d->use->dot_bf16(m->weight + 2 * row * d->columns, d->bf16 + token * d->bf16_bytes, d->columns);
    int64_t blocks = d->padded / BLOCK;
    return d->use->dot_int8((const int8_t *)m->weight + row * d->padded, m->factors + 2 * row * blocks,
                            d->int8 + token * d->int8_bytes, blocks);
}

static float with_bias(const Dense *d, const Matrix *m, int64_t row, int64_t at, float sum) {
    float bias = m->bias ? load_bf16(m->bias, row) : 0;
    return bias + sum + (d->residual ? d->residual[at] : 0);
}

static void multiply_few(const Dense *d, float *y, const Matrix *m, int64_t start) {
    int64_t end = start + CHUNK_ROWS < m->rows ? start + CHUNK_ROWS : m->rows;
    float sums[CHUNK_ROWS * FEW_TOKENS];
    int summed = d->several && !m->factors;
    if (summed)
        d->use->dots_few(sums, m->weight + 2 * start * d->columns, end - start, (const float *)d->bf16, d->columns,
                         d->tokens);
    for (int64_t row = start; row < end; row++)
        for (int64_t t = 0; t < d->tokens; t++) {
            int64_t at = t * m->rows + row;
            float sum = summed ? sums[(row - start) * d->tokens + t] : dot(d, m, row, t);
            y[at] = with_bias(d, m, row, at, sum);
        }
}

/* Columns [start, start + n) of DENSE_ROWS rows as float32 [DENSE_ROWS, STRIP_STRIDE], with zeros past the last row and
   column. Prefetches the next strip, which is read after this one is multiplied by all tokens. */
static void widen(const Dense *d, float *out, const Matrix *m, int64_t row, int64_t start, int64_t n) {
    int64_t blocks = d->padded / BLOCK, left = d->columns - start, known = left < n ? left : n;
    for (int64_t r = 0; r < DENSE_ROWS; r++, row++, out += STRIP_STRIDE) {
        int64_t size = m->factors ? 1 : 2, stride = m->factors ? d->padded : d->columns;
        const uint8_t *next = m->weight + size * (row * stride + start + STRIP);
        for (int64_t line = 0; line < size * STRIP; line += LINE) prefetch(next + line);
        if (row >= m->rows) {
            memset(out, 0, (size_t)n * sizeof *out);
        } else if (!m->factors) {
            d->use->widen_bf16(out, m->weight + 2 * (row * d->columns + start), known);
            memset(out + known, 0, (size_t)(n - known) * sizeof *out);
        } else {
            d->use->widen_int8(out, (const int8_t *)m->weight + row * d->padded + start,
                               m->factors + 2 * (row * blocks + start / BLOCK), n / BLOCK);
        }
    }
}

/* `room` holds widened rows [DENSE_ROWS, STRIP_STRIDE] and sums [groups, DENSE_ROWS, DENSE_TOKENS]. */
static void multiply_many(const Dense *d, float *y, const Matrix *m, int64_t start, float *room) {
    int64_t end = start + DENSE_ROWS < m->rows ? start + DENSE_ROWS : m->rows;
    int64_t groups = (d->tokens + DENSE_TOKENS - 1) / DENSE_TOKENS, size = DENSE_ROWS * DENSE_TOKENS;
    float *sums = room + DENSE_ROWS * STRIP_STRIDE;
    memset(sums, 0, (size_t)(groups * size) * sizeof *sums);
    for (int64_t strip = 0; strip < d->padded; strip += STRIP) {
        int64_t n = d->padded - strip < STRIP ? d->padded - strip : STRIP;
        widen(d, room, m, start, strip, n);
        for (int64_t group = 0; group < groups; group++) {
            int64_t first = group * DENSE_TOKENS, left = d->tokens - first;
            d->use->tile_float(sums + group * size, room, d->floats + first * d->padded, d->padded, strip, n,
                               left < DENSE_TOKENS ? left : DENSE_TOKENS);
        }
    }
    for (int64_t t = 0; t < d->tokens; t++)
        for (int64_t row = start; row < end; row++) {
            int64_t at = t * m->rows + row, group = t / DENSE_TOKENS;
            float sum = sums[group * size + (row - start) * DENSE_TOKENS + t % DENSE_TOKENS];
            y[at] = with_bias(d, m, row, at, sum);
        }
}

static int64_t chunks_of(const Dense *d, const Matrix *m) {
    int64_t rows = d->many ? DENSE_ROWS : CHUNK_ROWS;
    return (m->rows + rows - 1) / rows;
}

/* Some rows of one matrix: chunks are numbered through all matrices. */
static void multiply(void *context, int64_t chunk, int thread) {
    const Dense *d = context;
    const Matrix *m = d->matrices;
    float *y = d->y;
    for (; chunk >= chunks_of(d, m); m++) {
        chunk -= chunks_of(d, m);
        y += m->rows * d->tokens;
    }
    if (d->many) {
        multiply_many(d, y, m, chunk * DENSE_ROWS, d->rooms + thread * d->room_floats);
    } else {
        multiply_few(d, y, m, chunk * CHUNK_ROWS);
    }
}

static int reserve(Dense *d, float *normed, int threads) {
    int bf16 = 0, int8 = 0;
    int64_t groups = (d->tokens + DENSE_TOKENS - 1) / DENSE_TOKENS, packed, bytes;
    for (int64_t i = 0; i < d->count; i++) *(d->matrices[i].factors ? &int8 : &bf16) = 1;
    d->many = d->tokens > FEW_TOKENS;
    d->padded = (d->columns + BLOCK - 1) / BLOCK * BLOCK;
    int64_t whole = (d->padded / BLOCK + PADDED_BLOCKS - 1) / PADDED_BLOCKS * PADDED_BLOCKS;
    d->several = !d->many && d->tokens > 1 && d->use->dots_few;
    int64_t few_bytes = d->padded * (int64_t)sizeof *d->floats;
    if (!d->many && bf16) d->bf16_bytes = d->several ? few_bytes : whole * BLOCK * d->use->bf16_bytes;
    if (!d->many && int8) d->int8_bytes = whole * d->use->int8_bytes;
    if (d->many) {
        d->room_floats = DENSE_ROWS * (STRIP_STRIDE + groups * DENSE_TOKENS);
        packed = groups * DENSE_TOKENS * d->padded * (int64_t)sizeof *d->floats;
    } else {
        packed = d->tokens * (d->bf16_bytes + d->int8_bytes + (int8 ? d->padded * (int64_t)sizeof *d->floats : 0));
    }
    bytes = packed + threads * d->room_floats * (int64_t)sizeof *d->rooms;
    if (d->norm && !normed) bytes += d->tokens * d->columns * (int64_t)sizeof *normed;
    d->memory = malloc((size_t)(bytes + LINE));
    if (!d->memory) return 0;
    d->bf16 = d->memory + LINE - (uintptr_t)d->memory % LINE; /* all parts but the last are whole lines */
    d->int8 = d->bf16 + d->tokens * d->bf16_bytes;
    d->floats = (float *)d->bf16;
    d->rooms = (float *)(d->bf16 + packed);
    d->normed = normed ? normed : d->rooms + threads * d->room_floats;
    return 1;
}

/* y = x @ weight.T + bias of each of `count` matrices, one result [tokens, rows] after the other.

   x [tokens, columns] goes through RMSNorm with `norm` [columns] bf16 before it, unless that is NULL, and into `normed`
   [tokens, columns], unless that is NULL. `residual` [tokens, rows] is added to a single matrix's result, unless NULL.
   Returns 0 if there is no memory. */
EXPORT int gptoss_dense(float *y, float *normed, const float *x, const uint8_t *norm, const float *residual,
                        const Matrix *matrices, int64_t count, int64_t tokens, int64_t columns, float eps,
                        int threads) {
    Dense d = {.use = gptoss_kernels(), .y = y, .x = x, .residual = residual, .norm = norm, .matrices = matrices,
               .count = count, .tokens = tokens, .columns = columns, .eps = eps};
    int64_t chunks = 0, rows = 0;
    for (int64_t i = 0; i < count; i++) rows += matrices[i].rows;
    threads = gptoss_worthwhile(2 * rows * columns * (1 + tokens / FEW_TOKENS), threads);
    if (!reserve(&d, normed, threads)) return 0;
    for (int64_t i = 0; i < count; i++) chunks += chunks_of(&d, matrices + i);
    if (d.many) {
        gptoss_parallel(pack_group, &d, (tokens + DENSE_TOKENS - 1) / DENSE_TOKENS, threads);
    } else {
        gptoss_parallel(pack_token, &d, tokens, threads);
    }
    gptoss_parallel(multiply, &d, chunks, threads);
    free(d.memory);
    return 1;
}
