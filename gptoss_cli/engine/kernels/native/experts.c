/* The experts of a layer: products with MXFP4 weights as they lie in the checkpoint, and what stands between them. */
#include <math.h>
#include <stdlib.h>

#include "gptoss.h"

enum { CHUNK_ROWS = 96, FEW_TOKENS = 8, LINE = 64 };

/* Activations of some tokens: float32 as they are, or (`by` not NULL) packed for `by`. */
typedef struct {
    void *memory;
    float *floats;
    const Mxfp4Kernels *by;
    char *values;
    float *factors;
    int64_t groups;
    int64_t padded; /* groups rounded up to whole GROUPs */
} Inputs;

static int reserve(Inputs *in, const Mxfp4Kernels *by, int64_t tokens, int64_t groups) {
    *in = (Inputs){NULL, NULL, by, NULL, NULL, groups, (groups + GROUP - 1) / GROUP * GROUP};
    size_t blocks = (size_t)(tokens * in->padded), cells = blocks * BLOCK;
    size_t bytes = cells * sizeof *in->floats, value_bytes = by ? (size_t)by->value_bytes : 0;
    if (by) bytes += cells * value_bytes + blocks * FACTORS * sizeof *in->factors;
    in->memory = malloc(bytes + LINE);
    if (!in->memory) return 0;
    in->floats = (float *)((char *)in->memory + LINE - (uintptr_t)in->memory % LINE); /* all parts are whole lines */
    if (by) {
        in->values = (char *)(in->floats + cells);
        in->factors = (float *)(in->values + cells * value_bytes);
    }
    return 1;
}

static void release(Inputs *in) { free(in->memory); }

static float *floats_of(const Inputs *in, int64_t token) { return in->floats + token * in->groups * BLOCK; }

/* In what products take activations: NULL is float32. */
static const Mxfp4Kernels *products(const IsaKernels *use, int activations) {
    return activations == ACTIVATIONS_FLOAT32 ? NULL : activations == ACTIVATIONS_INT8 ? use->int8 : use->int16;
}

static void *values_of(const Inputs *in, int64_t block) { return in->values + block * BLOCK * in->by->value_bytes; }

static void pack(const Inputs *in, int64_t token) {
    if (!in->by) return;
    int64_t at = token * in->padded;
    in->by->pack_blocks(values_of(in, at), in->factors + at * FACTORS, floats_of(in, token), in->groups);
}

/* sums [tokens, count] of `count` rows of one expert from `row` on, by tokens from `token` on, bias included. */
static void dots(const IsaKernels *use, float *sums, const Experts *m, int64_t expert, int64_t row, int64_t count,
                 const Inputs *in, int64_t token, int64_t tokens) {
    int64_t index = expert * m->rows + row, group = index * m->groups, at = token * in->padded;
    const uint8_t *blocks = m->blocks + group * BLOCK_BYTES, *scales = m->scales + group;
    if (in->by)
        in->by->dots(sums, blocks, scales, count, values_of(in, at), in->factors + at * FACTORS, m->groups, tokens);
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t i = 0; i < count; i++) {
            if (!in->by)
                sums[t * count + i] = use->dot_mxfp4_float(blocks + i * m->groups * BLOCK_BYTES,
                                                           scales + i * m->groups, floats_of(in, token + t), m->groups);
            sums[t * count + i] += load_bf16(m->bias, index + i);
        }
}

static float swiglu(float gate, float up, float limit) {
    gate = gate > limit ? limit : gate; /* comparisons that let a NaN through */
    up = up > limit ? limit : up < -limit ? -limit : up;
    return (up + 1.0f) * gate / (1.0f + expf(-1.702f * gate));
}

/* CHUNK_ROWS / 2 hidden values of `expert` for one token: gates and ups lie in turn. */
static void hidden_chunk(const IsaKernels *use, float *hidden, const Experts *gate_up, int64_t expert, int64_t start,
                         const Inputs *in, int64_t token, float limit) {
    float sums[CHUNK_ROWS];
    int64_t left = gate_up->rows - start, count = left < CHUNK_ROWS ? left : CHUNK_ROWS;
    dots(use, sums, gate_up, expert, start, count, in, token, 1);
    for (int64_t i = 0; i < count / 2; i++) hidden[start / 2 + i] = swiglu(sums[2 * i], sums[2 * i + 1], limit);
}

/* CHUNK_ROWS rows of x plus what the `active` chosen experts make of `hidden`, times their expert_weights. */
static void down_chunk(const IsaKernels *use, float *out, const float *x, const Experts *down, const int64_t *experts,
                       const float *expert_weights, int64_t active, int64_t start, const Inputs *hidden) {
    float sums[CHUNK_ROWS];
    int64_t left = down->rows - start, count = left < CHUNK_ROWS ? left : CHUNK_ROWS;
    memcpy(out + start, x + start, (size_t)count * sizeof *out);
    for (int64_t i = 0; i < active; i++) {
        dots(use, sums, down, experts[i], start, count, hidden, i, 1);
        for (int64_t row = 0; row < count; row++) out[start + row] += expert_weights[i] * sums[row];
    }
}

/* The `active` largest of logits [tokens, experts], a NaN before all: which they are, and their softmax. */
EXPORT void gptoss_choose(int64_t *chosen, float *expert_weights, const float *logits, int64_t tokens, int64_t experts,
                          int64_t active) {
    for (int64_t t = 0; t < tokens; t++) {
        const float *from = logits + t * experts;
        int64_t *to = chosen + t * active;
        float *weight = expert_weights + t * active, total = 0;
        for (int64_t i = 0; i < active; i++) {
            to[i] = -1;
            for (int64_t e = 0; e < experts; e++) {
                int taken = 0;
                for (int64_t j = 0; j < i; j++) taken |= to[j] == e;
                if (!taken && (to[i] < 0 || from[e] > from[to[i]] || (from[e] != from[e] && from[to[i]] == from[to[i]])))
                    to[i] = e;
            }
            weight[i] = expf(from[to[i]] - from[to[0]]);
            total += weight[i];
        }
        for (int64_t i = 0; i < active; i++) weight[i] /= total;
    }
}

/* out [rows] = x plus what the `active` chosen experts make of `normed`, times their expert_weights: one token.

   `activations` says in what products take them. Returns 0 if there is no memory. */
EXPORT int gptoss_mix_one(float *out, const float *x, const float *normed, const int64_t *experts, const float *expert_weights,
                          int64_t active, const Experts *gate_up, const Experts *down, float limit, int activations,
                          int threads) {
    const IsaKernels *use = gptoss_kernels();
    const Mxfp4Kernels *by = products(use, activations);
    Inputs in, hidden;
    int reserved = reserve(&in, by, 1, gate_up->groups);
    reserved = reserve(&hidden, by, active, down->groups) && reserved;
    int64_t chunks = (gate_up->rows + CHUNK_ROWS - 1) / CHUNK_ROWS;
    int64_t down_chunks = (down->rows + CHUNK_ROWS - 1) / CHUNK_ROWS;
    (void)threads;
    if (reserved) {
        memcpy(in.floats, normed, (size_t)(in.groups * BLOCK) * sizeof *normed);
        pack(&in, 0);
    }
#pragma omp parallel num_threads(threads) if (reserved)
    {
#pragma omp for schedule(dynamic, 1)
        for (int64_t chunk = 0; chunk < (reserved ? active * chunks : 0); chunk++) {
            int64_t i = chunk / chunks;
            hidden_chunk(use, floats_of(&hidden, i), gate_up, experts[i], chunk % chunks * CHUNK_ROWS, &in, 0, limit);
        }
#pragma omp for schedule(static)
        for (int64_t i = 0; i < (reserved ? active : 0); i++) pack(&hidden, i);
#pragma omp for schedule(dynamic, 1)
        for (int64_t chunk = 0; chunk < (reserved ? down_chunks : 0); chunk++)
            down_chunk(use, out, x, down, experts, expert_weights, active, chunk * CHUNK_ROWS, &hidden);
    }
    release(&in), release(&hidden);
    return reserved;
}

/* sums [tokens, TILE_ROWS] of the rows from `start` on, bias included. */
static void tile(const IsaKernels *use, float *sums, const Experts *m, int64_t expert, int64_t start,
                 const Inputs *in, int64_t tokens) {
    int64_t row = expert * m->rows + start, group = row * m->groups;
    if (!in->by || tokens <= FEW_TOKENS) {
        dots(use, sums, m, expert, start, TILE_ROWS, in, 0, tokens);
        return;
    }
    in->by->tile(sums, m->blocks + group * BLOCK_BYTES, m->scales + group, m->groups, in->values, in->factors,
                 tokens);
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t r = 0; r < TILE_ROWS; r++) sums[t * TILE_ROWS + r] += load_bf16(m->bias, row + r);
}

static void prepare(const Inputs *in, int64_t tokens, int64_t token) {
    if (tokens <= FEW_TOKENS) {
        pack(in, token);
    } else if (in->by) {
        in->by->pack_tile(values_of(in, token), in->factors + token, floats_of(in, token), in->groups, tokens);
    }
}

/* out [.., C] += weight * what `expert` makes of normed [.., C], for the `count` rows that `tokens` lists. */
static int mix_expert(float *out, const float *normed, const int64_t *tokens, const float *expert_weights, int64_t count,
                      int64_t expert, const Experts *gate_up, const Experts *down, float limit, int activations,
                      int threads) {
    const IsaKernels *use = gptoss_kernels();
    const Mxfp4Kernels *by = products(use, activations);
    Inputs in, hidden;
    int64_t columns = gate_up->groups * BLOCK;
    int failed = 0;
    int reserved = reserve(&in, by, count, gate_up->groups);
    reserved = reserve(&hidden, by, count, down->groups) && reserved;
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
            prepare(&in, count, t);
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
        for (int64_t t = 0; t < (failed ? 0 : count); t++) prepare(&hidden, count, t);
#pragma omp for schedule(dynamic, 1)
        for (int64_t start = 0; start < (failed ? 0 : down->rows); start += TILE_ROWS) {
            tile(use, sums, down, expert, start, &hidden, count);
            for (int64_t t = 0; t < count; t++)
                for (int64_t r = 0; r < TILE_ROWS; r++)
                    out[tokens[t] * down->rows + start + r] += expert_weights[t] * sums[t * TILE_ROWS + r];
        }
        free(sums);
    }
    release(&in), release(&hidden);
    return !failed;
}

/* As gptoss_mix_one, for experts and expert_weights [tokens, active] of `total` experts, one expert at a time.

   The rows of both matrices are multiples of TILE_ROWS. Returns 0 if there is no memory. */
EXPORT int gptoss_mix_many(float *out, const float *x, const float *normed, const int64_t *experts,
                           const float *expert_weights, int64_t tokens, int64_t active, int64_t total, const Experts *gate_up,
                           const Experts *down, float limit, int activations, int threads) {
    int64_t *chosen_by = malloc((size_t)tokens * sizeof *chosen_by);
    float *their_weights = malloc((size_t)tokens * sizeof *their_weights);
    int done = chosen_by && their_weights;
    memcpy(out, x, (size_t)(tokens * down->rows) * sizeof *out);
    for (int64_t expert = 0; done && expert < total; expert++) {
        int64_t count = 0;
        for (int64_t i = 0; i < tokens * active; i++) {
            if (experts[i] != expert) continue;
            chosen_by[count] = i / active;
            their_weights[count++] = expert_weights[i];
        }
        if (count)
            done = mix_expert(out, normed, chosen_by, their_weights, count, expert, gate_up, down, limit, activations, threads);
    }
    free(chosen_by), free(their_weights);
    return done;
}
