/* All layers for one token in one call.

   This is the second statement of a layer, beside engine/model.py. Python between the operations would cost more than a
   whole token of the demo, and several milliseconds for each token of the 20b model. A test compares the two bit by
   bit: change both. */
#include <stdlib.h>

#include "gptoss.h"

typedef struct {
    const uint8_t *attention_norm;
    Matrix qkv[3];
    Matrix output;
    const uint8_t *sinks;
    const uint8_t *mlp_norm;
    Matrix router;
    Experts gate_up, down;
} Layer;

/* Keys and values [slots, kv_heads, head_dim] of one layer; position p is in slot p % slots. */
typedef struct {
    uint8_t *keys, *values;
    int64_t slots;
} Cached;

typedef struct {
    int64_t hidden_size, query_heads, kv_heads, head_dim, active;
    float eps, limit;
    int32_t activations; /* for gptoss_mix_one */
    int32_t is_bf16;     /* whether keys and values are, else float32 */
} Shape;

/* Intermediate results of a layer. */
typedef struct {
    float *qkv, *rotated, *attended, *residual, *normed, *logits, *expert_weights;
    int64_t *chosen;
} Made;

static int64_t most_experts(const Layer *layers, int64_t count) {
    int64_t most = 0;
    for (int64_t i = 0; i < count; i++) most = layers[i].router.rows > most ? layers[i].router.rows : most;
    return most;
}

static void *reserve(Made *made, const Shape *s, int64_t experts) {
    int64_t queries = s->query_heads * s->head_dim, keys = s->kv_heads * s->head_dim;
    int64_t sizes[] = {queries + 2 * keys, queries + keys, queries, s->hidden_size, s->hidden_size, experts, s->active};
    float **parts[] = {&made->qkv,    &made->rotated, &made->attended, &made->residual,
                       &made->normed, &made->logits,  &made->expert_weights};
    int64_t cells = 0;
    for (int i = 0; i < 7; i++) cells += sizes[i];
    void *memory = malloc((size_t)s->active * sizeof *made->chosen + (size_t)cells * sizeof(float));
    if (!memory) return NULL;
    made->chosen = memory;
    float *at = (float *)(made->chosen + s->active);
    for (int i = 0; i < 7; at += sizes[i++]) *parts[i] = at;
    return memory;
}

static void keep(uint8_t *to, const float *from, int64_t n, int is_bf16) {
    if (!is_bf16) memcpy(to, from, (size_t)n * sizeof *from);
    for (int64_t i = 0; is_bf16 && i < n; i++) {
        uint16_t bits = bf16_of(from[i]);
        memcpy(to + 2 * i, &bits, sizeof bits);
    }
}

/* Rotate, cache and attend. The order in a ring cache does not matter to a query that sees all of it. */
static int attend(const Made *made, const Layer *layer, const Cached *cached, const Shape *s, const float *cosines,
                  const float *sines, int64_t position, int threads) {
    int64_t queries = s->query_heads * s->head_dim, keys = s->kv_heads * s->head_dim;
    int64_t known = position + 1 < cached->slots ? position + 1 : cached->slots;
    int64_t at = position % cached->slots * keys * (s->is_bf16 ? 2 : 4);
    gptoss_rotate(made->rotated, made->qkv, cosines, sines, 1, s->query_heads + s->kv_heads, s->head_dim);
    keep(cached->keys + at, made->rotated + queries, keys, s->is_bf16);
    keep(cached->values + at, made->qkv + queries + keys, keys, s->is_bf16);
    Attention shape = {
        1, s->query_heads, s->kv_heads, s->head_dim, known, position + 1 - known, position, 0, s->is_bf16};
    return gptoss_attend(made->attended, made->rotated, cached->keys, cached->values, layer->sinks, &shape, threads);
}

static int run(float *x, const Made *made, const Layer *layer, const Cached *cached, const Shape *s,
               const float *cosines, const float *sines, int64_t position, int threads) {
    int64_t width = s->hidden_size;
    return gptoss_dense(made->qkv, NULL, x, layer->attention_norm, NULL, layer->qkv, 3, 1, width, s->eps, threads) &&
           attend(made, layer, cached, s, cosines, sines, position, threads) &&
           gptoss_dense(made->residual, NULL, made->attended, NULL, x, &layer->output, 1, 1,
                        s->query_heads * s->head_dim, 0, threads) &&
           gptoss_dense(made->logits, made->normed, made->residual, layer->mlp_norm, NULL, &layer->router, 1, 1, width,
                        s->eps, threads) &&
           (gptoss_choose(made->chosen, made->expert_weights, made->logits, 1, layer->router.rows, s->active),
            gptoss_mix_one(x, made->residual, made->normed, made->chosen, made->expert_weights, s->active,
                           &layer->gate_up, &layer->down, s->limit, s->activations, threads));
}

/* x [hidden_size] through `count` layers, in place; the token's keys and values are cached at `position`, to which the
   cosines and sines [head_dim / 2] belong. Returns 0 if there is no memory. */
EXPORT int gptoss_decode(float *x, const Layer *layers, const Cached *caches, int64_t count, const Shape *shape,
                         const float *cosines, const float *sines, int64_t position, int threads) {
    Made made;
    void *memory = reserve(&made, shape, most_experts(layers, count));
    int done = memory != NULL;
    for (int64_t i = 0; done && i < count; i++)
        done = run(x, &made, layers + i, caches + i, shape, cosines, sines, position, threads);
    free(memory);
    return done;
}
