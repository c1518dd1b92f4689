/* Runs every kernel on arrays that end where memory ends, in both sets of instructions, and compares the results.

   Built with sanitizers by test_native_check.py. Prints what is wrong, and exits with 1 if anything is. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "attention_check.h"
#include "gptoss.h"

#if defined(__unix__) || defined(__APPLE__)
#include <sys/mman.h>
#include <unistd.h>
#endif

int gptoss_select(const char *name);

static int failures;
static uint32_t state = 1;

static uint32_t next_random(void) { return state = state * 1664525u + 1013904223u, state >> 8; }

static float random_float(void) { return (float)(next_random() & 0xFFFF) / 32768.0f - 1.0f; }

/* Exactly `bytes` on the heap, so that the sanitizer sees a read past them. */
static void *filled(size_t bytes) {
    uint8_t *memory = malloc(bytes ? bytes : 1);
    for (size_t i = 0; i < bytes; i++) memory[i] = (uint8_t)next_random();
    return memory;
}

static float *floats(int64_t n) {
    float *memory = malloc((size_t)n * sizeof *memory);
    for (int64_t i = 0; i < n; i++) memory[i] = random_float();
    return memory;
}

static uint8_t *bf16s(int64_t n) {
    uint8_t *memory = malloc((size_t)n * 2);
    for (int64_t i = 0; i < n; i++) {
        float value = random_float();
        memcpy(memory + 2 * i, (uint8_t *)&value + 2, 2);
    }
    return memory;
}

static uint8_t *scales(int64_t n) {
    uint8_t *memory = malloc((size_t)n);
    for (int64_t i = 0; i < n; i++) memory[i] = (uint8_t)(118 + next_random() % 6);
    return memory;
}

static void compare(const char *what, int64_t n, float got, float expected, float size) {
    if (fabsf(got - expected) <= 1e-5f * size + 1e-6f) return;
    printf("%s of %d: %g, not %g\n", what, (int)n, (double)got, (double)expected);
    failures++;
}

static const char *names[] = {"int16", "int8"};

static const Mxfp4Kernels *products(const IsaKernels *use, int kind) { return kind ? use->int8 : use->int16; }

/* Activations of some tokens, packed for dots. */
typedef struct {
    void *values;
    float *factors;
} Packed;

static Packed packed_for(const Mxfp4Kernels *by, const float *x, int64_t blocks, int64_t tokens) {
    int64_t padded = (blocks + GROUP - 1) / GROUP * GROUP;
    Packed packed = {malloc((size_t)(tokens * padded * BLOCK * by->value_bytes)),
                     malloc((size_t)(tokens * padded * FACTORS) * sizeof(float))};
    for (int64_t t = 0; t < tokens; t++)
        by->pack_blocks((char *)packed.values + t * padded * BLOCK * by->value_bytes,
                        packed.factors + t * padded * FACTORS, x + t * blocks * BLOCK, blocks);
    return packed;
}

static void release(Packed packed) { free(packed.values), free(packed.factors); }

/* What `use` makes of one row of each kind; the inputs are the same for the same n. */
static void dots(const IsaKernels *use, int64_t n, float results[3]) {
    state = (uint32_t)n;
    int64_t blocks = n / BLOCK;
    float *x = floats(n), *packed = malloc((size_t)n * sizeof *packed);
    float *factors = malloc((size_t)blocks * sizeof *factors);
    uint8_t *dense = bf16s(n), *nibbles = filled((size_t)blocks * BLOCK_BYTES), *powers = scales(blocks);
    uint8_t *steps = filled((size_t)n), *weight_factors = bf16s(blocks);
    int16_t *values = malloc((size_t)n * sizeof *values);
    use->pack_float(packed, x, n);
    results[0] = use->dot_bf16(dense, packed, n);
    results[1] = use->dot_mxfp4_float(nibbles, powers, x, blocks);
    use->quantize(values, factors, x, blocks);
    results[2] = use->dot_int8((int8_t *)steps, weight_factors, values, factors, blocks) / 127.0f;
    free(x), free(packed), free(factors), free(dense), free(nibbles), free(powers), free(steps), free(weight_factors);
    free(values);
}

static void check_dots(const IsaKernels *use, int64_t n) {
    float got[3], expected[3];
    dots(use, n, got), dots(&gptoss_scalar, n, expected);
    const char *kinds[3] = {"dot_bf16", "dot_mxfp4_float", "dot_int8"};
    for (int i = 0; i < 3; i++) compare(kinds[i], n, got[i], expected[i], sqrtf((float)n) * 8);
}

/* Two rows by several tokens at once. */
static void check_rows(const IsaKernels *use, int64_t blocks, int64_t tokens) {
    enum { ROWS = 2 };
    uint8_t *nibbles = filled((size_t)(ROWS * blocks * BLOCK_BYTES)), *powers = scales(ROWS * blocks);
    float *x = floats(tokens * blocks * BLOCK), *sums[2];
    const IsaKernels *both[2] = {use, &gptoss_scalar};
    for (int kind = 0; kind < 2; kind++) {
        for (int i = 0; i < 2; i++) {
            const Mxfp4Kernels *by = products(both[i], kind);
            Packed packed = packed_for(by, x, blocks, tokens);
            sums[i] = malloc((size_t)(tokens * ROWS) * sizeof(float));
            by->dots(sums[i], nibbles, powers, ROWS, packed.values, packed.factors, blocks, tokens);
            release(packed);
        }
        for (int64_t i = 0; i < tokens * ROWS; i++)
            compare(names[kind], blocks, sums[0][i], sums[1][i], sqrtf((float)blocks) * 50);
        free(sums[0]), free(sums[1]);
    }
    free(nibbles), free(powers), free(x);
}

static void check_tile(const IsaKernels *use, int64_t blocks, int64_t tokens) {
    uint8_t *nibbles = filled((size_t)(TILE_ROWS * blocks * BLOCK_BYTES)), *powers = scales(TILE_ROWS * blocks);
    float *x = floats(blocks * tokens * BLOCK), *sums[2];
    const IsaKernels *both[2] = {use, &gptoss_scalar};
    for (int kind = 0; kind < 2; kind++) {
        for (int i = 0; i < 2; i++) {
            const Mxfp4Kernels *by = products(both[i], kind);
            float *factors = malloc((size_t)(blocks * tokens) * sizeof *factors);
            char *values = malloc((size_t)(blocks * tokens * BLOCK * by->value_bytes));
            sums[i] = malloc((size_t)(tokens * TILE_ROWS) * sizeof(float));
            for (int64_t t = 0; t < tokens; t++)
                by->pack_tile(values + t * BLOCK * by->value_bytes, factors + t, x + t * blocks * BLOCK, blocks, tokens);
            by->tile(sums[i], nibbles, powers, blocks, values, factors, tokens);
            free(factors), free(values);
        }
        for (int64_t i = 0; i < tokens * TILE_ROWS; i++)
            compare(names[kind], blocks, sums[0][i], sums[1][i], sqrtf((float)blocks) * 8);
        free(sums[0]), free(sums[1]);
    }
    free(nibbles), free(powers), free(x);
}

/* A tile of rows by tokens that lie apart, added to what is there. */
static void check_tile_float(const IsaKernels *use, int64_t n, int64_t tokens) {
    float *rows = floats(SIDE * n), *x = floats(tokens * (n + 8)), *sums[2];
    const IsaKernels *both[2] = {use, &gptoss_scalar};
    for (int i = 0; i < 2; i++) {
        sums[i] = malloc((size_t)(tokens * SIDE) * sizeof(float));
        for (int64_t j = 0; j < tokens * SIDE; j++) sums[i][j] = (float)j;
        both[i]->tile_float(sums[i], SIDE, rows, x, n + 8, tokens, n);
    }
    for (int64_t i = 0; i < tokens * SIDE; i++) compare("tile_float", n, sums[0][i], sums[1][i], (float)n);
    free(rows), free(x), free(sums[0]), free(sums[1]);
}

/* The last row of a mapping: the page after it cannot be read. */
static void check_mapping(const IsaKernels *use, int64_t n) {
#if defined(__unix__) || defined(__APPLE__)
    size_t page = (size_t)sysconf(_SC_PAGESIZE), bytes = (size_t)n * 2, size = (bytes + page - 1) / page * page;
    uint8_t *memory = mmap(NULL, size + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mprotect(memory + size, page, PROT_NONE);
    int64_t blocks = n / BLOCK;
    float *x = floats(n), *packed = malloc((size_t)n * sizeof *packed), *factors = malloc((size_t)blocks * sizeof *factors);
    int16_t *values = malloc((size_t)n * sizeof *values);
    uint8_t *end = memory + size, *powers = scales(blocks), *nibbles = filled((size_t)blocks * BLOCK_BYTES);
    float sum = 0, one;
    use->pack_float(packed, x, n);
    sum += use->dot_bf16(end - 2 * n, packed, n);
    for (int kind = 0; kind < 2; kind++) {
        const Mxfp4Kernels *by = products(use, kind);
        Packed token = packed_for(by, x, blocks, 1);
        by->dots(&one, end - blocks * BLOCK_BYTES, powers, 1, token.values, token.factors, blocks, 1);
        sum += one;
        by->dots(&one, nibbles, end - blocks, 1, token.values, token.factors, blocks, 1);
        sum += one;
        release(token);
    }
    sum += use->dot_mxfp4_float(end - blocks * BLOCK_BYTES, powers, x, blocks);
    sum += use->dot_mxfp4_float(nibbles, end - blocks, x, blocks);
    use->quantize(values, factors, x, blocks);
    sum += use->dot_int8((int8_t *)end - n, end - 2 * blocks, values, factors, blocks);
    if (sum != sum) puts("the last row of a mapping makes no number"), failures++;
    free(x), free(packed), free(factors), free(values), free(powers), free(nibbles);
    munmap(memory, size + page);
#else
    (void)use, (void)n;
#endif
}

int main(void) {
    const IsaKernels *use = gptoss_kernels();
    const int64_t columns[] = {32, 64, 96, 224, 256, 288, 352, 2880, 4096};
    for (size_t i = 0; i < sizeof columns / sizeof *columns; i++) {
        check_dots(use, columns[i]);
        check_mapping(use, columns[i]);
        check_mapping(&gptoss_scalar, columns[i]);
    }
    for (int64_t tokens = 1; tokens <= 14; tokens++) check_tile(use, 1 + tokens % 4, tokens);
    check_tile(use, 90, 7);
    for (int64_t tokens = 1; tokens <= 9; tokens++)
        check_rows(use, 7 + tokens, tokens), check_rows(use, 90, tokens), check_tile_float(use, 8 * tokens, tokens);
    const char *tables[] = {"avx512", "avx2", "scalar"};
    for (int i = 0; i < 3; i++)
        if (gptoss_select(tables[i])) failures += check_attention(gptoss_kernels());
    printf("%s checked against scalar\n", use->name);
    return failures != 0;
}
