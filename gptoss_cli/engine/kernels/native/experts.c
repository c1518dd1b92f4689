/* The experts of a layer: products with MXFP4 weights as they lie in the checkpoint, and what stands between them. */
#include <math.h>
#include <stdlib.h>

#include "gptoss.h"

enum { CHUNK_ROWS = 32, FEW_TOKENS = 4 };

/* One matrix per expert: blocks [experts, rows, groups, 16], exponents [experts, rows, groups], bias bf16. */
typedef struct {
    const uint8_t *blocks;
    const uint8_t *exponents;
    const uint8_t *bias;
    int64_t rows;
    int64_t groups; /* blocks a row */
} Experts;

/* Activations of some tokens: float32 as they are, or (values not NULL) int16 in the layout of dot_mxfp4. */
typedef struct {
    float *floats;
    int16_t *values;
    float *factors;
    int64_t groups;
    int64_t padded; /* groups rounded up to even */
} Inputs;

static int reserve(Inputs *in, int64_t tokens, int64_t groups, int exact) {
    *in = (Inputs){NULL, NULL, NULL, groups, (groups + 1) / 2 * 2};
    size_t blocks = (size_t)(tokens * in->padded);
    in->floats = malloc(blocks * BLOCK * sizeof *in->floats);
    if (!exact) {
        in->values = malloc(blocks * BLOCK * sizeof *in->values);
        in->factors = malloc(blocks * FACTORS * sizeof *in->factors);
    }
    return in->floats && (exact || (in->values && in->factors));
}

static void release(Inputs *in) { free(in->floats), free(in->values), free(in->factors); }

static float *floats_of(const Inputs *in, int64_t token) { return in->floats + token * in->groups * BLOCK; }

static void pack(const Instructions *use, const Inputs *in, int64_t token) {
    if (!in->values) return;
    int64_t at = token * in->padded;
    use->pack_blocks(in->values + at * BLOCK, in->factors + at * FACTORS, floats_of(in, token), in->groups);
}

/* A row of one expert by one token, bias included. */
static float dot(const Instructions *use, const Experts *m, int64_t expert, int64_t row, const Inputs *in,
                 int64_t token) {
    int64_t index = expert * m->rows + row, group = index * m->groups, at = token * in->padded;
    const uint8_t *blocks = m->blocks + group * BLOCK_BYTES, *exponents = m->exponents + group;
    float bias = load_bf16(m->bias, index);
    if (!in->values) return bias + use->dot_mxfp4_float(blocks, exponents, floats_of(in, token), m->groups);
    return bias + use->dot_mxfp4(blocks, exponents, in->values + at * BLOCK, in->factors + at * FACTORS, m->groups);
}

static float swiglu(float gate, float up, float limit) {
    gate = gate > limit ? limit : gate; /* comparisons that let a NaN through */
    up = up > limit ? limit : up < -limit ? -limit : up;
    return (up + 1.0f) * gate / (1.0f + expf(-1.702f * gate));
}

/* CHUNK_ROWS / 2 hidden values of `expert` for one token. */
static void hidden_chunk(const Instructions *use, float *hidden, const Experts *gate_up, int64_t expert, int64_t start,
                         const Inputs *in, int64_t token, float limit) {
    int64_t end = start + CHUNK_ROWS / 2;
    for (int64_t i = start; i < end && i < gate_up->rows / 2; i++) {
        float gate = dot(use, gate_up, expert, 2 * i, in, token);
        hidden[i] = swiglu(gate, dot(use, gate_up, expert, 2 * i + 1, in, token), limit);
    }
}

/* out [rows] = x plus what the `active` chosen experts make of `normed`, times their shares: one token.

   `exact` takes activations as float32, else they are int16 with a factor for each 32. Returns 0 if there is no
   memory. */
EXPORT int gptoss_mix_one(float *out, const float *x, const float *normed, const int64_t *experts, const float *shares,
                          int64_t active, const Experts *gate_up, const Experts *down, float limit, int exact,
                          int threads) {
    const Instructions *use = gptoss_instructions();
    Inputs in, hidden;
    int reserved = reserve(&in, 1, gate_up->groups, exact);
    reserved = reserve(&hidden, active, down->groups, exact) && reserved;
    int64_t chunks = (gate_up->rows + CHUNK_ROWS - 1) / CHUNK_ROWS;
    int64_t down_chunks = (down->rows + CHUNK_ROWS - 1) / CHUNK_ROWS;
    (void)threads;
    if (reserved) {
        memcpy(in.floats, normed, (size_t)(in.groups * BLOCK) * sizeof *normed);
        pack(use, &in, 0);
    }
#pragma omp parallel num_threads(threads) if (reserved)
    {
#pragma omp for schedule(dynamic, 1)
        for (int64_t chunk = 0; chunk < (reserved ? active * chunks : 0); chunk++) {
            int64_t i = chunk / chunks, start = chunk % chunks * (CHUNK_ROWS / 2);
            hidden_chunk(use, floats_of(&hidden, i), gate_up, experts[i], start, &in, 0, limit);
        }
#pragma omp for schedule(static)
        for (int64_t i = 0; i < (reserved ? active : 0); i++) pack(use, &hidden, i);
#pragma omp for schedule(dynamic, 1)
        for (int64_t chunk = 0; chunk < (reserved ? down_chunks : 0); chunk++) {
            int64_t start = chunk * CHUNK_ROWS, end = start + CHUNK_ROWS < down->rows ? start + CHUNK_ROWS : down->rows;
            memcpy(out + start, x + start, (size_t)(end - start) * sizeof *out);
            for (int64_t i = 0; i < active; i++)
                for (int64_t row = start; row < end; row++)
                    out[row] += shares[i] * dot(use, down, experts[i], row, &hidden, i);
        }
    }
    release(&in), release(&hidden);
    return reserved;
}

/* The tile's inputs: values [groups, tokens, 32] and factors [groups, tokens]. */
static void quantize_tokens(const Instructions *use, const Inputs *in, int64_t tokens, int64_t token) {
    for (int64_t g = 0; g < in->groups; g++)
        use->quantize(in->values + (g * tokens + token) * BLOCK, in->factors + g * tokens + token,
                      floats_of(in, token) + g * BLOCK, 1);
}

/* sums [tokens, TILE_ROWS] of the rows from `start` on, bias included. */
static void tile(const Instructions *use, float *sums, const Experts *m, int64_t expert, int64_t start,
                 const Inputs *in, int64_t tokens) {
    int64_t row = expert * m->rows + start, group = row * m->groups;
    if (!in->values || tokens <= FEW_TOKENS) {
        for (int64_t r = 0; r < TILE_ROWS; r++)
            for (int64_t t = 0; t < tokens; t++) sums[t * TILE_ROWS + r] = dot(use, m, expert, start + r, in, t);
        return;
    }
    use->tile(sums, m->blocks + group * BLOCK_BYTES, m->exponents + group, m->groups, in->values, in->factors, tokens);
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t r = 0; r < TILE_ROWS; r++) sums[t * TILE_ROWS + r] += load_bf16(m->bias, row + r);
}

static void prepare(const Instructions *use, const Inputs *in, int64_t tokens, int64_t token) {
    if (tokens <= FEW_TOKENS) {
        pack(use, in, token);
    } else if (in->values) {
        quantize_tokens(use, in, tokens, token);
    }
}

/* mixed [.., C] += share * what `expert` makes of normed [.., C], for the `count` rows that `tokens` lists.

   The rows of both matrices are multiples of TILE_ROWS. Returns 0 if there is no memory. */
EXPORT int gptoss_mix_many(float *mixed, const float *normed, const int64_t *tokens, const float *shares,
                           int64_t count, int64_t expert, const Experts *gate_up, const Experts *down, float limit,
                           int exact, int threads) {
    const Instructions *use = gptoss_instructions();
    Inputs in, hidden;
    int64_t columns = gate_up->groups * BLOCK;
    int failed = 0;
    int reserved = reserve(&in, count, gate_up->groups, exact);
    reserved = reserve(&hidden, count, down->groups, exact) && reserved;
    (void)threads;
#pragma omp parallel num_threads(threads) if (reserved)
    {
        float *sums = reserved ? malloc((size_t)(count * TILE_ROWS) * sizeof *sums) : NULL;
        if (!sums) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp barrier
#pragma omp for schedule(static)
        for (int64_t t = 0; t < (failed ? 0 : count); t++) {
            memcpy(floats_of(&in, t), normed + tokens[t] * columns, (size_t)columns * sizeof *normed);
            prepare(use, &in, count, t);
        }
#pragma omp for schedule(dynamic, 1)
        for (int64_t start = 0; start < (failed ? 0 : gate_up->rows); start += TILE_ROWS) {
            tile(use, sums, gate_up, expert, start, &in, count);
            for (int64_t t = 0; t < count; t++)
                for (int64_t i = 0; i < TILE_ROWS / 2; i++) {
                    const float *pair = sums + t * TILE_ROWS + 2 * i;
                    floats_of(&hidden, t)[start / 2 + i] = swiglu(pair[0], pair[1], limit);
                }
        }
#pragma omp for schedule(static)
        for (int64_t t = 0; t < (failed ? 0 : count); t++) prepare(use, &hidden, count, t);
#pragma omp for schedule(dynamic, 1)
        for (int64_t start = 0; start < (failed ? 0 : down->rows); start += TILE_ROWS) {
            tile(use, sums, down, expert, start, &hidden, count);
            for (int64_t t = 0; t < count; t++)
                for (int64_t r = 0; r < TILE_ROWS; r++)
                    mixed[tokens[t] * down->rows + start + r] += shares[t] * sums[t * TILE_ROWS + r];
        }
        free(sums);
    }
    release(&in), release(&hidden);
    return !failed;
}
