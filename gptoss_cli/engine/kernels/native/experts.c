/* The experts of a layer: products with MXFP4 weights as they lie in the checkpoint, and what is between them. */
#include <math.h>
#include <stdlib.h>

#include "gptoss.h"

/* Rows in a piece of work for one token, and the number of tokens up to which an expert uses dots instead of tiles. */
enum { CHUNK_ROWS = 96, FEW_TOKENS = 8 };

/* Activations of some tokens, float32 and then packed for `by`. */
typedef struct {
    const Mxfp4Kernels *by;
    void *memory;
    float *floats;
    char *packed;
    int64_t groups; /* blocks a token */
    int64_t bytes;  /* of a packed token */
} Inputs;

static int reserve(Inputs *in, const Mxfp4Kernels *by, int64_t tokens, int64_t groups) {
    int64_t padded = (groups + PADDED_BLOCKS - 1) / PADDED_BLOCKS * PADDED_BLOCKS;
    int64_t packed = tokens * padded * by->block_bytes, cells = tokens * groups * BLOCK;
    *in = (Inputs){by, malloc((size_t)packed + (size_t)cells * sizeof *in->floats + LINE), NULL, NULL, groups,
                   padded * by->block_bytes};
    if (!in->memory) return 0;
    in->packed = (char *)in->memory + LINE - (uintptr_t)in->memory % LINE;
    in->floats = (float *)(in->packed + packed);
    return 1;
}

static void release(Inputs *in) { free(in->memory); }

static float *floats_of(const Inputs *in, int64_t token) { return in->floats + token * in->groups * BLOCK; }

static const Mxfp4Kernels *mxfp4_kernels(const IsaKernels *use, int activations) {
    if (activations == ACTIVATIONS_FLOAT32) return use->float32;
    return activations == ACTIVATIONS_INT8 ? use->int8 : use->int16;
}

static void pack(const Inputs *in, int64_t token) {
    in->by->pack(in->packed + token * in->bytes, floats_of(in, token), in->groups);
}

static void add_bias(float *sums, const uint8_t *bias, int64_t rows, int64_t tokens) {
    for (int64_t t = 0; t < tokens; t++, sums += rows)
        for (int64_t i = 0; i < rows; i++) sums[i] += load_bf16(bias, i);
}

/* sums [tokens, count] of `count` rows of one expert from `row` on, by tokens from `token` on, bias included. */
static void dots(float *sums, const Experts *m, int64_t expert, int64_t row, int64_t count, const Inputs *in,
                 int64_t token, int64_t tokens) {
    int64_t index = expert * m->rows + row, group = index * m->groups;
    in->by->dots(sums, m->blocks + group * BLOCK_BYTES, m->scales + group, count, in->packed + token * in->bytes,
                 m->groups, tokens);
    add_bias(sums, m->bias + 2 * index, count, tokens);
}

/* One call of gptoss_mix_one, or what gptoss_mix_many does for one expert. */
typedef struct {
    const Experts *gate_up, *down;
    const float *x;
    float *out;
    const int64_t *experts; /* of the one token */
    const float *expert_weights;
    int64_t active;
    float limit;
    Inputs in, hidden; /* hidden has a token for each of the active experts, or for each token */
    /* Of many tokens: one expert, and the rows of x that go through it. */
    int64_t expert, count;
    const int64_t *tokens;
    const float *normed;
    int64_t tile_rows;
    float *sums; /* [count, tile_rows] for each thread */
} Mix;

static int64_t chunks_of(const Experts *m) { return (m->rows + CHUNK_ROWS - 1) / CHUNK_ROWS; }

static int64_t bytes_of(const Experts *m) { return m->rows * m->groups * (BLOCK_BYTES + 1); }

/* CHUNK_ROWS / 2 hidden values of one expert: gates and ups take turns. */
static void hidden_chunk(void *context, int64_t piece, int thread) {
    const Mix *m = context;
    int64_t chunks = chunks_of(m->gate_up), i = piece / chunks, start = piece % chunks * CHUNK_ROWS;
    int64_t left = m->gate_up->rows - start, count = left < CHUNK_ROWS ? left : CHUNK_ROWS;
    float sums[CHUNK_ROWS], *hidden = floats_of(&m->hidden, i) + start / 2;
    (void)thread;
    dots(sums, m->gate_up, m->experts[i], start, count, &m->in, 0, 1);
    gptoss_kernels()->swiglu(hidden, sums, count / 2, m->limit);
}

static void pack_hidden(void *context, int64_t i, int thread) {
    (void)thread;
    pack(&((const Mix *)context)->hidden, i);
}

/* CHUNK_ROWS rows of x plus the weighted results of the active experts. */
static void down_chunk(void *context, int64_t piece, int thread) {
    const Mix *m = context;
    float sums[CHUNK_ROWS];
    int64_t start = piece * CHUNK_ROWS, left = m->down->rows - start, count = left < CHUNK_ROWS ? left : CHUNK_ROWS;
    (void)thread;
    memcpy(m->out + start, m->x + start, (size_t)count * sizeof *m->out);
    for (int64_t i = 0; i < m->active; i++) {
        dots(sums, m->down, m->experts[i], start, count, &m->hidden, i, 1);
        for (int64_t row = 0; row < count; row++) m->out[start + row] += m->expert_weights[i] * sums[row];
    }
}

/* The `active` largest of logits [tokens, experts], a NaN before all others, and their softmax. */
EXPORT void gptoss_choose(int64_t *chosen, float *expert_weights, const float *logits, int64_t tokens,
                          int64_t experts, int64_t active) {
    for (int64_t t = 0; t < tokens; t++) {
        const float *from = logits + t * experts;
        int64_t *to = chosen + t * active;
        float *weight = expert_weights + t * active, total = 0;
        for (int64_t i = 0; i < active; i++) {
            to[i] = -1;
            for (int64_t e = 0; e < experts; e++) {
                int taken = 0;
                for (int64_t j = 0; j < i; j++) taken |= to[j] == e;
                int is_first_nan = from[e] != from[e] && to[i] >= 0 && from[to[i]] == from[to[i]];
                if (!taken && (to[i] < 0 || from[e] > from[to[i]] || is_first_nan))
                    to[i] = e;
            }
            weight[i] = expf(from[to[i]] - from[to[0]]);
            total += weight[i];
        }
        for (int64_t i = 0; i < active; i++) weight[i] /= total;
    }
}

/* out [rows] = x plus the weighted results of the `active` chosen experts for `normed`: one token.

   `activations` is the form in which products take them. Returns 0 if there is no memory. */
EXPORT int gptoss_mix_one(float *out, const float *x, const float *normed, const int64_t *experts,
                          const float *expert_weights, int64_t active, const Experts *gate_up, const Experts *down,
                          float limit, int activations, int threads) {
    const Mxfp4Kernels *by = mxfp4_kernels(gptoss_kernels(), activations);
    Mix m = {.gate_up = gate_up, .down = down, .x = x, .out = out, .experts = experts,
             .expert_weights = expert_weights, .active = active, .limit = limit};
    int reserved = reserve(&m.in, by, 1, gate_up->groups);
    reserved = reserve(&m.hidden, by, active, down->groups) && reserved;
    if (reserved) {
        int some = gptoss_worthwhile(active * bytes_of(gate_up), threads);
        memcpy(m.in.floats, normed, (size_t)(m.in.groups * BLOCK) * sizeof *normed);
        pack(&m.in, 0);
        gptoss_parallel(hidden_chunk, &m, active * chunks_of(gate_up), some);
        gptoss_parallel(pack_hidden, &m, active, some);
        gptoss_parallel(down_chunk, &m, chunks_of(down), gptoss_worthwhile(active * bytes_of(down), threads));
    }
    release(&m.in), release(&m.hidden);
    return reserved;
}

/* sums [tokens, tile_rows] of the rows from `start` on, bias included. */
static void tile(const Mix *m, float *sums, const Experts *weights, int64_t start, const Inputs *in) {
    int64_t row = m->expert * weights->rows + start, group = row * weights->groups;
    if (!in->by->tile || m->count <= FEW_TOKENS) {
        dots(sums, weights, m->expert, start, m->tile_rows, in, 0, m->count);
        return;
    }
    in->by->tile(sums, weights->blocks + group * BLOCK_BYTES, weights->scales + group, weights->groups, in->packed,
                 m->count);
    add_bias(sums, weights->bias + 2 * row, m->tile_rows, m->count);
}

static void prepare(const Inputs *in, int64_t token, int64_t tokens) {
    if (!in->by->tile || tokens <= FEW_TOKENS) {
        pack(in, token);
    } else {
        in->by->pack_tile(in->packed, floats_of(in, token), in->groups, token, tokens);
    }
}

static void prepare_input(void *context, int64_t t, int thread) {
    const Mix *m = context;
    int64_t columns = m->in.groups * BLOCK;
    (void)thread;
    memcpy(floats_of(&m->in, t), m->normed + m->tokens[t] * columns, (size_t)columns * sizeof *m->normed);
    prepare(&m->in, t, m->count);
}

static void prepare_hidden(void *context, int64_t t, int thread) {
    const Mix *m = context;
    (void)thread;
    prepare(&m->hidden, t, m->count);
}

static void hidden_tile(void *context, int64_t piece, int thread) {
    const Mix *m = context;
    int64_t start = piece * m->tile_rows;
    float *sums = m->sums + thread * m->count * m->tile_rows;
    tile(m, sums, m->gate_up, start, &m->in);
    for (int64_t t = 0; t < m->count; t++) {
        float *hidden = floats_of(&m->hidden, t) + start / 2;
        gptoss_kernels()->swiglu(hidden, sums + t * m->tile_rows, m->tile_rows / 2, m->limit);
    }
}

static void down_tile(void *context, int64_t piece, int thread) {
    const Mix *m = context;
    int64_t start = piece * m->tile_rows;
    float *sums = m->sums + thread * m->count * m->tile_rows;
    tile(m, sums, m->down, start, &m->hidden);
    for (int64_t t = 0; t < m->count; t++) {
        float *out = m->out + m->tokens[t] * m->down->rows + start;
        for (int64_t r = 0; r < m->tile_rows; r++) out[r] += m->expert_weights[t] * sums[t * m->tile_rows + r];
    }
}

/* Adds to out the weighted results of one expert for its `count` tokens. Returns 0 if there is no memory. */
static int mix_expert(Mix *m, const Mxfp4Kernels *by, int threads) {
    int64_t work = m->count > FEW_TOKENS ? m->count / FEW_TOKENS : 1;
    int some = gptoss_worthwhile(bytes_of(m->gate_up) * work, threads);
    int reserved = reserve(&m->in, by, m->count, m->gate_up->groups);
    reserved = reserve(&m->hidden, by, m->count, m->down->groups) && reserved;
    m->tile_rows = by->tile ? by->tile_rows : BLOCK;
    m->sums = malloc((size_t)(threads * m->count * m->tile_rows) * sizeof *m->sums);
    reserved = m->sums && reserved;
    if (reserved) {
        gptoss_parallel(prepare_input, m, m->count, some);
        gptoss_parallel(hidden_tile, m, m->gate_up->rows / m->tile_rows, some);
        gptoss_parallel(prepare_hidden, m, m->count, some);
        gptoss_parallel(down_tile, m, m->down->rows / m->tile_rows, some);
    }
    free(m->sums), release(&m->in), release(&m->hidden);
    return reserved;
}

/* The same as gptoss_mix_one for many tokens: experts and expert_weights [tokens, active], one of `total` experts at a
   time.

   The rows of both matrices are multiples of BLOCK. Returns 0 if there is no memory. */
EXPORT int gptoss_mix_many(float *out, const float *x, const float *normed, const int64_t *experts,
                           const float *expert_weights, int64_t tokens, int64_t active, int64_t total,
                           const Experts *gate_up, const Experts *down, float limit, int activations, int threads) {
    const Mxfp4Kernels *by = mxfp4_kernels(gptoss_kernels(), activations);
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
        Mix m = {.gate_up = gate_up, .down = down, .out = out, .normed = normed, .tokens = chosen_by, .count = count,
                 .expert = expert, .expert_weights = their_weights, .limit = limit};
        if (count) done = mix_expert(&m, by, threads);
    }
    free(chosen_by), free(their_weights);
    return done;
}
