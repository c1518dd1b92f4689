/* Compares the kernels of a table with the scalar ones on hard values: a CPU, or what imitates one, may say that it has
   instructions and compute them wrongly. Takes about a millisecond. */
#include <math.h>
#include <stdlib.h>

#include "gptoss.h"

/* Neither whole steps nor whole groups of any table. PACKED_BYTES is the most that any of them makes of a block. */
enum { BLOCKS = 17, ROWS = 32, TOKENS = 7, COLUMNS = BLOCKS * BLOCK, PACKED_BYTES = 128 };

/* Scales: ordinary ones; those whose powers are subnormal or next to it; one that is no number in each row. */
typedef enum { ORDINARY, SMALLEST, BROKEN, SCALE_KINDS } ScaleKind;

typedef struct {
    float x[TOKENS * COLUMNS];
    uint8_t blocks[ROWS * BLOCKS * BLOCK_BYTES], scales[ROWS * BLOCKS], row[2 * COLUMNS];
    float got[TOKENS * ROWS], expected[TOKENS * ROWS];
    char memory[TOKENS * 2 * PADDED_BLOCKS * PACKED_BYTES + LINE];
    char *packed; /* within memory, on a line */
} Room;

static uint32_t next_random(uint32_t *state) { return *state = *state * 1664525u + 1013904223u, *state >> 8; }

/* Activations with zeros of both signs, a block of subnormals and one of large values; weights of every nibble. */
static void fill(Room *r, ScaleKind kind) {
    uint32_t state = 1;
    for (int i = 0; i < TOKENS * COLUMNS; i++) {
        int block = i / BLOCK % BLOCKS;
        float size = block == 3 ? 1e-40f : block == 5 ? 1e4f : 1.0f;
        r->x[i] = ((float)(next_random(&state) & 0xFFFF) / 32768.0f - 1.0f) * size;
        if (i % 11 == 0) r->x[i] = i % 2 ? -0.0f : 0.0f;
    }
    for (size_t i = 0; i < sizeof r->blocks; i++) r->blocks[i] = (uint8_t)next_random(&state);
    for (int i = 0; i < ROWS * BLOCKS; i++)
        r->scales[i] = (uint8_t)(kind == SMALLEST ? next_random(&state) % 2 : 120 + next_random(&state) % 12);
    for (int row = 0; kind == BROKEN && row < ROWS; row++)
        r->scales[row * BLOCKS + next_random(&state) % BLOCKS] = 255;
    for (int i = 0; i < COLUMNS; i++) { /* bf16 between 1/2 and 2 */
        uint16_t bits = (uint16_t)(0x3F00 + (next_random(&state) & 0x80FF));
        memcpy(r->row + 2 * i, &bits, sizeof bits);
    }
}

/* `size` is about the largest sum that there could be: sums in another order differ by a fraction of it. */
static int is_near(float got, float expected, float size) {
    if (!isfinite(expected)) return !isfinite(got);
    return fabsf(got - expected) <= 2e-6f * size + 1e-44f;
}

static float largest_sum(const Room *r, int token, int row) {
    float size = 0;
    for (int g = 0; g < BLOCKS; g++) {
        float most = 0;
        for (int i = 0; i < BLOCK; i++) most = fmaxf(most, fabsf(r->x[token * COLUMNS + g * BLOCK + i]));
        size += 6 * BLOCK * most * power_of_two(r->scales[row * BLOCKS + g]);
    }
    return size;
}

static int sums_agree(const Room *r, int rows, int tokens) {
    for (int i = 0; i < tokens * rows; i++)
        if (!is_near(r->got[i], r->expected[i], largest_sum(r, i / rows, i % rows))) return 0;
    return 1;
}

static void dots(Room *r, float *sums, const Mxfp4Kernels *by, int rows, int tokens) {
    int64_t bytes = 2 * PADDED_BLOCKS * by->block_bytes;
    for (int t = 0; t < tokens; t++) by->pack(r->packed + t * bytes, r->x + t * COLUMNS, BLOCKS);
    by->dots(sums, r->blocks, r->scales, rows, r->packed, BLOCKS, tokens);
}

static int mxfp4_is_right(Room *r, const Mxfp4Kernels *by, const Mxfp4Kernels *oracle) {
    for (ScaleKind kind = ORDINARY; kind < SCALE_KINDS; kind++) {
        fill(r, kind);
        for (int tokens = 1; tokens <= TOKENS; tokens += TOKENS - 1) {
            dots(r, r->expected, oracle, 5, tokens);
            dots(r, r->got, by, 5, tokens);
            if (!sums_agree(r, 5, tokens)) return 0;
        }
        if (!by->tile) continue;
        dots(r, r->expected, oracle, (int)by->tile_rows, TOKENS);
        for (int t = 0; t < TOKENS; t++) by->pack_tile(r->packed, r->x + t * COLUMNS, BLOCKS, t, TOKENS);
        by->tile(r->got, r->blocks, r->scales, BLOCKS, r->packed, TOKENS);
        if (!sums_agree(r, (int)by->tile_rows, TOKENS)) return 0;
    }
    return 1;
}

/* Rows that are no whole number of vectors, and begin on no line. */
static int dense_is_right(Room *r, const IsaKernels *use) {
    const IsaKernels *both[2] = {use, &gptoss_scalar};
    enum { ODD = COLUMNS - 7 };
    fill(r, ORDINARY);
    for (int i = 0; i < 2; i++) {
        float *sums = i ? r->expected : r->got;
        memset(r->packed, 0, 2 * PADDED_BLOCKS * PACKED_BYTES);
        both[i]->pack_bf16(r->packed, r->x, ODD);
        sums[0] = both[i]->dot_bf16(r->row, r->packed, ODD);
        sums[2] = sums[0];
        if (both[i]->dots_few) {
            both[i]->pack_few((float *)r->packed, r->x, ODD);
            both[i]->dots_few(sums + 2, r->row, 1, (const float *)r->packed, ODD, 1);
        }
        both[i]->pack_int8(r->packed, r->x, BLOCKS - 1);
        sums[1] = both[i]->dot_int8((int8_t *)r->blocks + 1, r->row, r->packed, BLOCKS - 1);
    }
    return is_near(r->got[0], r->expected[0], COLUMNS * 1e4f / BLOCKS) &&
           is_near(r->got[2], r->expected[0], COLUMNS * 1e4f / BLOCKS) &&
           is_near(r->got[1], r->expected[1], COLUMNS * 1e6f / BLOCKS);
}

static int tile_float_is_right(Room *r, const IsaKernels *use) {
    enum { TILE = DENSE_ROWS * DENSE_TOKENS, SOME = 64 };
    const IsaKernels *both[2] = {use, &gptoss_scalar};
    float *memory = malloc((2 * TILE + DENSE_ROWS * STRIP_STRIDE + DENSE_TOKENS * SOME) * sizeof *memory + LINE);
    if (!memory) return 1;
    float *packed = (float *)((char *)memory + LINE - (uintptr_t)memory % LINE), *rows = packed + DENSE_TOKENS * SOME;
    float *sums[2] = {rows + DENSE_ROWS * STRIP_STRIDE, rows + DENSE_ROWS * STRIP_STRIDE + TILE};
    fill(r, ORDINARY);
    for (int i = 0; i < DENSE_ROWS * STRIP_STRIDE; i++) rows[i] = load_bf16(r->row, i % COLUMNS);
    for (int i = 0; i < 2; i++) {
        for (int j = 0; j < TILE; j++) sums[i][j] = 1;
        both[i]->pack_float(packed, r->x, SOME - 5, SOME, DENSE_TOKENS);
        both[i]->tile_float(sums[i], rows, packed, SOME, BLOCK, SOME - BLOCK, DENSE_TOKENS);
    }
    int right = 1;
    for (int i = 0; i < TILE; i++) right &= is_near(sums[0][i], sums[1][i], SOME * 1e4f);
    free(memory);
    return right;
}

static int swiglu_is_right(Room *r, const IsaKernels *use) {
    enum { PAIRS = 37 };
    float got[PAIRS], expected[PAIRS];
    fill(r, ORDINARY);
    use->swiglu(got, r->x, PAIRS, 0.5f), gptoss_scalar.swiglu(expected, r->x, PAIRS, 0.5f);
    for (int i = 0; i < PAIRS; i++)
        if (!is_near(got[i], expected[i], 1)) return 0;
    return 1;
}

/* One token after 70 keys, of which the last chunk is not full. Selects the kernels of that name. */
static int attention_is_right(Room *r, const char *name) {
    enum { HEADS = 16, KV_HEADS = 2, DIM = 64, KEYS = 71, CELLS = HEADS * DIM };
    const Attention shape = {.tokens = 1, .query_heads = HEADS, .kv_heads = KV_HEADS, .head_dim = DIM, .keys = KEYS,
                             .position = KEYS - 1, .is_bf16 = 1};
    uint8_t *cache = malloc(2 * KEYS * KV_HEADS * DIM * 2);
    float *outs = malloc(2 * CELLS * sizeof *outs);
    int right = 1;
    fill(r, ORDINARY);
    if (cache && outs) {
        for (int i = 0; i < 2 * KEYS * KV_HEADS * DIM; i++) memcpy(cache + 2 * i, r->row + i % COLUMNS * 2, 2);
        for (int i = 0; i < 2; i++) {
            gptoss_select(i ? gptoss_scalar.name : name);
            right = right && gptoss_attend(outs + i * CELLS, r->x, cache, cache + KEYS * KV_HEADS * DIM * 2, r->row,
                                           &shape, 1);
        }
        for (int i = 0; i < CELLS; i++) right = right && fabsf(outs[i] - outs[CELLS + i]) <= 2e-5f;
    }
    free(cache), free(outs);
    return right;
}

/* 1 if the table computes what the scalar one does, or there is no memory to tell. Leaves any kernels selected. */
int gptoss_is_right(const IsaKernels *use) {
    const IsaKernels *oracle = &gptoss_scalar;
    Room *r = malloc(sizeof *r);
    if (!r) return 1;
    r->packed = r->memory + LINE - (uintptr_t)r->memory % LINE;
    int right = mxfp4_is_right(r, use->int16, oracle->int16) && mxfp4_is_right(r, use->int8, oracle->int8) &&
                mxfp4_is_right(r, use->float32, oracle->float32) && dense_is_right(r, use) &&
                tile_float_is_right(r, use) && swiglu_is_right(r, use) && attention_is_right(r, use->name);
    free(r);
    return right;
}

/* Select the kernels of that name, or the best for "". If they do not compute what the scalar ones do, select the next
   best that do, and return the name of those that do not. Otherwise return NULL, also if there are none of that name. */
EXPORT const char *gptoss_self_check(const char *name) {
    const IsaKernels *const *first = gptoss_tables();
    while (*first && *name && strcmp(name, (*first)->name)) first++;
    if (!*first) return NULL;
    const IsaKernels *const *table = first;
    while (*table != &gptoss_scalar && !gptoss_is_right(*table)) table++;
    gptoss_select((*table)->name);
    return table == first ? NULL : (*first)->name;
}
