/* Runs every kernel of every table that this machine has, on arrays that end where memory ends, and compares the
   results with the scalar ones.

   Built with sanitizers by test_native_check.py, and for emulated processors. Prints which tables were checked and
   what is wrong, and exits with 1 if anything is. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "attention_check.h"

#if defined(__unix__) || defined(__APPLE__)
#include <sys/mman.h>
#include <unistd.h>
#endif

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

/* Packed activations lie on a cache line. */
static void *lines(int64_t bytes) { return aligned_alloc(LINE, (size_t)((bytes + LINE - 1) / LINE * LINE)); }

/* Scales [rows, n]: ordinary ones, or all the smallest, or large ones, or one that is no number in each row. */
typedef enum { ORDINARY, SMALLEST, LARGE, BROKEN, SCALE_KINDS } ScaleKind;

static uint8_t *scales(int64_t rows, int64_t n, ScaleKind kind) {
    uint8_t *memory = malloc((size_t)(rows * n));
    for (int64_t i = 0; i < rows * n; i++) {
        memory[i] = (uint8_t)(118 + next_random() % 6);
        if (kind == SMALLEST) memory[i] = (uint8_t)(next_random() % 2);
        if (kind == LARGE) memory[i] = (uint8_t)(232 + next_random() % 6);
    }
    if (kind == BROKEN)
        for (int64_t row = 0; row < rows; row++) memory[row * n + next_random() % (uint32_t)n] = 255;
    return memory;
}

/* `size` is the sum of the magnitudes that were added up. */
static void compare(const char *what, int64_t n, float got, float expected, float size) {
    if (!isfinite(expected) && !isfinite(got)) return;
    if (fabsf(got - expected) <= 2e-6f * size + 1e-44f) return;
    printf("%s of %d: %g, not %g\n", what, (int)n, (double)got, (double)expected);
    failures++;
}

static int64_t padded_blocks(int64_t n) { return (n + PADDED_BLOCKS - 1) / PADDED_BLOCKS * PADDED_BLOCKS; }

static const char *names[] = {"int16", "int8", "float32"};

static const Mxfp4Kernels *mxfp4(const IsaKernels *use, int kind) {
    return kind == 0 ? use->int16 : kind == 1 ? use->int8 : use->float32;
}

/* Activations of some tokens, packed for dots. */
static void *packed_for(const Mxfp4Kernels *by, const float *x, int64_t n, int64_t tokens) {
    int64_t bytes = padded_blocks(n) * by->block_bytes;
    char *packed = lines(tokens * bytes);
    for (int64_t t = 0; t < tokens; t++) by->pack(packed + t * bytes, x + t * n * BLOCK, n);
    return packed;
}

static void *packed_for_tile(const Mxfp4Kernels *by, const float *x, int64_t n, int64_t tokens) {
    char *packed = lines(tokens * padded_blocks(n) * by->block_bytes);
    for (int64_t t = 0; t < tokens; t++) by->pack_tile(packed, x + t * n * BLOCK, n, t, tokens);
    return packed;
}

/* The sum of the largest magnitudes that `row` can have: weights are at most 6, activations at most 1. */
static float size_of_row(const uint8_t *powers, int64_t n) {
    float size = 0;
    for (int64_t g = 0; g < n; g++) size += 6 * BLOCK * power_of_two(powers[g]);
    return size;
}

static void check_dots(const IsaKernels *use, int64_t n, int64_t rows, int64_t tokens, ScaleKind scale) {
    uint8_t *nibbles = filled((size_t)(rows * n * BLOCK_BYTES)), *powers = scales(rows, n, scale);
    float *x = floats(tokens * n * BLOCK);
    const IsaKernels *both[2] = {use, &gptoss_scalar};
    for (int kind = 0; kind < 3; kind++) {
        float *sums[2];
        for (int i = 0; i < 2; i++) {
            const Mxfp4Kernels *by = mxfp4(both[i], kind);
            void *packed = packed_for(by, x, n, tokens);
            sums[i] = malloc((size_t)(tokens * rows) * sizeof(float));
            by->dots(sums[i], nibbles, powers, rows, packed, n, tokens);
            free(packed);
        }
        for (int64_t i = 0; i < tokens * rows; i++)
            compare(names[kind], n, sums[0][i], sums[1][i], size_of_row(powers + i % rows * n, n));
        free(sums[0]), free(sums[1]);
    }
    free(nibbles), free(powers), free(x);
}

/* Scalar dots are the oracle of tiles, which are of as many rows as each table likes. */
static void check_tile(const IsaKernels *use, int64_t n, int64_t tokens, ScaleKind scale) {
    float *x = floats(tokens * n * BLOCK);
    for (int kind = 0; kind < 2; kind++) {
        const Mxfp4Kernels *by = mxfp4(use, kind), *oracle = mxfp4(&gptoss_scalar, kind);
        int64_t rows = by->tile_rows;
        uint8_t *nibbles = filled((size_t)(rows * n * BLOCK_BYTES)), *powers = scales(rows, n, scale);
        size_t bytes = (size_t)(tokens * rows) * sizeof(float);
        float *got = malloc(bytes), *sums = malloc(bytes);
        void *packed = packed_for_tile(by, x, n, tokens), *plain = packed_for(oracle, x, n, tokens);
        by->tile(got, nibbles, powers, n, packed, tokens);
        oracle->dots(sums, nibbles, powers, rows, plain, n, tokens);
        for (int64_t i = 0; i < tokens * rows; i++)
            compare(names[kind], n, got[i], sums[i], size_of_row(powers + i % rows * n, n));
        free(nibbles), free(powers), free(got), free(sums), free(packed), free(plain);
    }
    free(x);
}

/* A dense row of each kind. */
static void dense(const IsaKernels *use, const uint8_t *row, const int8_t *steps, const uint8_t *factors,
                  const float *x, int64_t n, float results[2]) {
    int64_t padded = padded_blocks((n + BLOCK - 1) / BLOCK);
    void *bf16 = lines(padded * BLOCK * use->bf16_bytes), *int8 = lines(padded * use->int8_bytes);
    use->pack_bf16(bf16, x, n);
    use->pack_int8(int8, x, n / BLOCK);
    results[0] = use->dot_bf16(row, bf16, n);
    results[1] = use->dot_int8(steps, factors, int8, n / BLOCK) / 127;
    free(bf16), free(int8);
}

static void check_dense(const IsaKernels *use, int64_t n) {
    float *x = floats(n), got[2], expected[2];
    uint8_t *row = bf16s(n), *factors = bf16s(n / BLOCK);
    int8_t *steps = filled((size_t)n);
    dense(use, row, steps, factors, x, n, got), dense(&gptoss_scalar, row, steps, factors, x, n, expected);
    compare("dot_bf16", n, got[0], expected[0], (float)n / 4);
    compare("dot_int8", n, got[1], expected[1], (float)n / 4);
    free(x), free(row), free(factors), free(steps);
}

/* Rows by a few tokens at once, each as the scalar kernel multiplies them alone. */
static void check_dots_few(const IsaKernels *use, int64_t n, int64_t rows, int64_t tokens) {
    if (!use->dots_few) return;
    int64_t padded = (n + BLOCK - 1) / BLOCK * BLOCK;
    float *x = floats(tokens * n), *sums = malloc((size_t)(rows * tokens) * sizeof *sums);
    float *packed = lines(tokens * padded * (int64_t)sizeof *packed);
    void *one = lines(padded * gptoss_scalar.bf16_bytes);
    uint8_t *weights = bf16s(rows * n);
    for (int64_t t = 0; t < tokens; t++) use->pack_few(packed + t * padded, x + t * n, n);
    use->dots_few(sums, weights, rows, packed, n, tokens);
    for (int64_t t = 0; t < tokens; t++) {
        gptoss_scalar.pack_bf16(one, x + t * n, n);
        for (int64_t row = 0; row < rows; row++) {
            float expected = gptoss_scalar.dot_bf16(weights + 2 * row * n, one, n);
            compare("dots_few", n, sums[row * tokens + t], expected, (float)n / 4);
        }
    }
    free(x), free(sums), free(packed), free(one), free(weights);
}

/* A tile of rows by tokens, added to what is there. */
static void check_tile_float(const IsaKernels *use, int64_t columns, int64_t start, int64_t n, int64_t tokens) {
    int64_t padded = (columns + BLOCK - 1) / BLOCK * BLOCK;
    float *rows = floats(DENSE_ROWS * STRIP_STRIDE), *x = floats(tokens * columns), *sums[2];
    const IsaKernels *both[2] = {use, &gptoss_scalar};
    for (int i = 0; i < 2; i++) {
        float *packed = lines(padded * DENSE_TOKENS * (int64_t)sizeof *packed);
        sums[i] = malloc(DENSE_ROWS * DENSE_TOKENS * sizeof(float));
        for (int64_t j = 0; j < DENSE_ROWS * DENSE_TOKENS; j++) sums[i][j] = (float)j / 64;
        both[i]->pack_float(packed, x, columns, padded, tokens);
        both[i]->tile_float(sums[i], rows, packed, padded, start, n, tokens);
        free(packed);
    }
    for (int64_t i = 0; i < DENSE_ROWS * DENSE_TOKENS; i++)
        if (i % DENSE_TOKENS < tokens) compare("tile_float", n, sums[0][i], sums[1][i], (float)n);
    free(rows), free(x), free(sums[0]), free(sums[1]);
}

/* Ordinary pairs, and some that the limit cuts, that overflow, or that are no numbers. */
static void check_swiglu(const IsaKernels *use, int64_t n) {
    const float hard[] = {0, -0.0f, 7, -7, 7.5f, 100, -100, 87, -88, 1e30f, -1e30f, INFINITY, -INFINITY, NAN, 1e-40f};
    enum { HARD = sizeof hard / sizeof *hard };
    float *pairs = floats(2 * n), *got = malloc((size_t)n * sizeof *got), *expected = malloc((size_t)n * sizeof *got);
    for (int64_t i = 0; i < 2 * n; i++) pairs[i] = next_random() % 4 ? 10 * pairs[i] : hard[next_random() % HARD];
    use->swiglu(got, pairs, n, 7), gptoss_scalar.swiglu(expected, pairs, n, 7);
    for (int64_t i = 0; i < n; i++) {
        compare("swiglu", n, got[i], expected[i], fabsf(expected[i]));
        if (isnan(got[i]) != isnan(expected[i])) puts("swiglu loses a NaN"), failures++;
    }
    free(pairs), free(got), free(expected);
}

/* The last rows of a mapping: the page after it cannot be read. */
static void check_mapping(const IsaKernels *use, int64_t n, int64_t rows) {
#if defined(__unix__) || defined(__APPLE__)
    size_t page = (size_t)sysconf(_SC_PAGESIZE), bytes = (size_t)(n * rows) * 2;
    size_t size = (bytes + page - 1) / page * page;
    uint8_t *memory = mmap(NULL, size + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mprotect(memory + size, page, PROT_NONE);
    int64_t blocks = n / BLOCK, tile;
    uint8_t *end = memory + size, *powers = scales(32, blocks, ORDINARY), *nibbles = filled((size_t)(32 * blocks * 16));
    float *x = floats(n), sums[32], results[2], sum = 0;
    for (int kind = 0; kind < 3; kind++) {
        const Mxfp4Kernels *by = mxfp4(use, kind);
        void *packed = packed_for(by, x, blocks, 1), *many;
        by->dots(sums, end - rows * blocks * BLOCK_BYTES, powers, rows, packed, blocks, 1);
        sum += sums[rows - 1];
        by->dots(sums, nibbles, end - rows * blocks, rows, packed, blocks, 1);
        sum += sums[rows - 1];
        free(packed);
        if (!(tile = by->tile_rows) || (size_t)(tile * n / 2) > size) continue;
        many = packed_for_tile(by, x, blocks, 1);
        by->tile(sums, end - tile * blocks * BLOCK_BYTES, powers, blocks, many, 1);
        by->tile(sums, nibbles, end - tile * blocks, blocks, many, 1);
        free(many);
    }
    dense(use, end - 2 * n, (int8_t *)end - n, end - 2 * blocks, x, n, results);
    if (isnan(sum + results[0] + results[1])) puts("the last row of a mapping makes no number"), failures++;
    free(x), free(powers), free(nibbles);
    munmap(memory, size + page);
#else
    (void)use, (void)n, (void)rows;
#endif
}

static void check(const IsaKernels *use) {
    const int64_t columns[] = {32, 64, 96, 224, 256, 288, 352, 480, 512, 544, 2880, 4096};
    for (size_t i = 0; i < sizeof columns / sizeof *columns; i++) {
        for (ScaleKind kind = ORDINARY; kind < SCALE_KINDS; kind++) check_dots(use, columns[i] / BLOCK, 5, 1, kind);
        check_dense(use, columns[i]);
        for (int64_t rows = 1; rows <= 5; rows++) check_mapping(use, columns[i], rows);
        for (int64_t tokens = 1; tokens <= 8; tokens++) check_dots_few(use, columns[i] - (int64_t)i, 3, tokens);
    }
    for (int64_t n = 1; n <= 33; n++) check_dots(use, n, n % 9 + 1, n % 5 + 1, ORDINARY);
    for (int64_t tokens = 1; tokens <= 9; tokens++)
        for (ScaleKind kind = ORDINARY; kind < SCALE_KINDS; kind++) check_dots(use, 90, 6, tokens, kind);
    for (int64_t tokens = 1; tokens <= 14; tokens++)
        for (ScaleKind kind = ORDINARY; kind < SCALE_KINDS; kind++) check_tile(use, 1 + tokens % 4, tokens, kind);
    for (int64_t n = 5; n <= 25; n++) check_tile(use, n, 7, ORDINARY);
    check_tile(use, 90, 7, ORDINARY), check_tile(use, 90, 65, ORDINARY);
    for (int64_t tokens = 1; tokens <= DENSE_TOKENS; tokens += 5)
        check_tile_float(use, 320, 96, 224, tokens), check_tile_float(use, 1000, 512, 512, tokens);
    check_tile_float(use, 30, 0, 32, DENSE_TOKENS);
    for (int64_t n = 1; n <= 70; n++) check_swiglu(use, n);
    failures += check_attention(use);
    printf("%s checked against scalar\n", use->name);
}

static float wrong_dot(const uint8_t *weights, const void *packed, int64_t n) {
    return gptoss_scalar.dot_bf16(weights, packed, n) * 1.001f;
}

static void wrong_tile(float *sums, const uint8_t *blocks, const uint8_t *powers, int64_t n, const void *packed,
                       int64_t tokens) {
    gptoss_scalar.int8->tile(sums, blocks, powers, n, packed, tokens);
    sums[tokens * 16 - 1] += 1;
}

/* A wrong table must not pass the check at load. */
static void check_self_check(void) {
    IsaKernels dense_wrong = gptoss_scalar, tile_wrong = gptoss_scalar;
    Mxfp4Kernels int8 = *gptoss_scalar.int8;
    dense_wrong.dot_bf16 = wrong_dot;
    int8.tile = wrong_tile;
    tile_wrong.int8 = &int8;
    if (gptoss_is_right(&dense_wrong)) puts("a wrong dense product passes the self-check"), failures++;
    if (gptoss_is_right(&tile_wrong)) puts("a wrong tile passes the self-check"), failures++;
}

int main(void) {
    for (const IsaKernels *const *table = gptoss_tables(); *table; table++) {
        check(*table);
        if (!gptoss_is_right(*table)) printf("%s does not pass the self-check\n", (*table)->name), failures++;
#ifdef BEST_TABLE_ONLY
        break;
#endif
    }
    check_self_check();
    return failures != 0;
}
