/* Times the inner loops of each table on one thread: products with one token, hot (weights in the L2 cache) and cold
   (weights streamed from memory, next to a plain read in the same rounds), and tiles of many tokens.

      cc -O3 -pthread -ffp-contract=off -Igptoss_cli/engine/kernels/native -o /tmp/benchmark \
         tests/engine/kernels/benchmark_native.c $(find gptoss_cli/engine/kernels/native -name '*.c') -lm
      /tmp/benchmark avx2 avx512bf16

   Other programs disturb it. It measures CPU time, rejects samples in which the thread was preempted, takes the tables
   in turn and prints medians; compare tables of one run only. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "gptoss.h"

enum { COLUMNS = 2880, BLOCKS = COLUMNS / BLOCK, TABLES = 4, ROUNDS = 60, HOT_BYTES = 200000, COLD_BYTES = 4 << 20 };
enum { MEMORY = 768 << 20, SCALES = 96 << 20, MISALIGNED = 24, MOST_TOKENS = 64 };

typedef enum { MXFP4_INT16, MXFP4_INT8, MXFP4_FLOAT32, DENSE_BF16, DENSE_INT8, KINDS } Kind;

static const char *names[] = {"mxfp4 int16", "mxfp4 int8", "mxfp4 float32", "dense bf16", "dense int8"};

static const IsaKernels *tables[TABLES];
static char *packed[TABLES];
static uint8_t *memory, *scales;
static float *x, sums[1 << 16];
static volatile uint64_t sink;

static double seconds(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Cycles a second: a chain of dependent additions takes one cycle each. */
static double frequency(void) {
    enum { STEPS = 30000000 };
    double began = seconds(CLOCK_THREAD_CPUTIME_ID);
    uint64_t sum = 0;
    for (int i = 0; i < STEPS; i++) __asm__ volatile("add $1, %0" : "+r"(sum));
    return STEPS / (seconds(CLOCK_THREAD_CPUTIME_ID) - began);
}

static const Mxfp4Kernels *mxfp4(int table, Kind kind) {
    const IsaKernels *use = tables[table];
    return kind == MXFP4_INT16 ? use->int16 : kind == MXFP4_INT8 ? use->int8 : use->float32;
}

static void pack(int table, Kind kind) {
    if (kind == DENSE_BF16) tables[table]->pack_bf16(packed[table], x, COLUMNS);
    if (kind == DENSE_INT8) tables[table]->pack_int8(packed[table], x, BLOCKS);
    if (kind < DENSE_BF16) mxfp4(table, kind)->pack(packed[table], x, BLOCKS);
}

static int64_t row_bytes(Kind kind) {
    return kind == DENSE_BF16 ? 2 * COLUMNS : kind == DENSE_INT8 ? COLUMNS : BLOCKS * BLOCK_BYTES;
}

static void multiply(int table, Kind kind, const uint8_t *weights, const uint8_t *factors, int64_t rows) {
    const IsaKernels *use = tables[table];
    if (kind < DENSE_BF16) mxfp4(table, kind)->dots(sums, weights, factors, rows, packed[table], BLOCKS, 1);
    for (int64_t row = 0; kind >= DENSE_BF16 && row < rows; row++) {
        const uint8_t *at = weights + row * row_bytes(kind);
        sums[row] = kind == DENSE_BF16
                        ? use->dot_bf16(at, packed[table], COLUMNS)
                        : use->dot_int8((const int8_t *)at, factors + 2 * row * BLOCKS, packed[table], BLOCKS);
    }
}

static void read_plainly(const uint8_t *from, int64_t bytes) {
    uint64_t words[8] = {0}, next[8];
    for (int64_t i = 0; i + LINE <= bytes; i += LINE) {
        memcpy(next, from + i, LINE);
        for (int j = 0; j < 8; j++) words[j] += next[j];
    }
    for (int j = 0; j < 8; j++) sink += words[j];
}

static int ascending(const void *a, const void *b) {
    double difference = *(const double *)a - *(const double *)b;
    return (difference > 0) - (difference < 0);
}

static double median(double *values, int count) {
    qsort(values, (size_t)count, sizeof *values, ascending);
    return count ? values[count / 2] : 0;
}

/* Cycles for each 64 bytes of weights that are in the cache. */
static double hot(int table, Kind kind, double hertz) {
    enum { SAMPLES = 21, REPEATS = 10 };
    int64_t rows = HOT_BYTES / row_bytes(kind) / 4 * 4;
    double samples[SAMPLES];
    for (int i = 0; i < SAMPLES; i++) {
        double began = seconds(CLOCK_THREAD_CPUTIME_ID);
        for (int j = 0; j < REPEATS; j++) multiply(table, kind, memory + MISALIGNED, scales, rows);
        samples[i] = seconds(CLOCK_THREAD_CPUTIME_ID) - began;
    }
    return median(samples, SAMPLES) / REPEATS * hertz / (double)(rows * row_bytes(kind)) * 64;
}

/* GB/s of each of `count` tables, and of a plain read as the last. */
static void cold(Kind kind, int count, double rates[TABLES + 1]) {
    double samples[TABLES + 1][ROUNDS];
    int clean[TABLES + 1] = {0};
    int64_t rows = COLD_BYTES / row_bytes(kind) / 4 * 4, bytes = rows * row_bytes(kind), at = 0, scales_at = 0;
    int64_t factor_bytes = rows * BLOCKS * (kind == DENSE_INT8 ? 2 : kind == DENSE_BF16 ? 0 : 1);
    for (int i = 0; i < ROUNDS * (count + 1); i++, at += bytes, scales_at += factor_bytes) {
        int which = i % (count + 1);
        if (at + bytes + LINE > MEMORY) at = 0;
        if (scales_at + factor_bytes > SCALES) scales_at = 0;
        double began = seconds(CLOCK_THREAD_CPUTIME_ID), wall = seconds(CLOCK_MONOTONIC);
        if (which == count) {
            read_plainly(memory + at, bytes);
        } else {
            multiply(which, kind, memory + MISALIGNED + at, scales + scales_at, rows);
        }
        double took = seconds(CLOCK_THREAD_CPUTIME_ID) - began;
        if (took < 0.97 * (seconds(CLOCK_MONOTONIC) - wall)) continue;
        samples[which][clean[which]++] = (double)(bytes + (which < count ? factor_bytes : 0)) / took / 1e9;
    }
    for (int i = 0; i <= count; i++) rates[i] = median(samples[i], clean[i]);
}

/* Billions of operations a second of a tile, from weights in memory; a multiplication and an addition are two. */
static double tile_rate(int table, Kind kind, int64_t tokens) {
    const Mxfp4Kernels *by = mxfp4(table, kind);
    double samples[ROUNDS];
    int64_t bytes = by->tile_rows * BLOCKS * BLOCK_BYTES;
    for (int64_t t = 0; t < tokens; t++) by->pack_tile(packed[table], x, BLOCKS, t, tokens);
    for (int i = 0; i < ROUNDS; i++) {
        double began = seconds(CLOCK_THREAD_CPUTIME_ID);
        const uint8_t *at = memory + MISALIGNED + i * bytes;
        by->tile(sums, at, scales + i * by->tile_rows * BLOCKS, BLOCKS, packed[table], tokens);
        samples[i] = seconds(CLOCK_THREAD_CPUTIME_ID) - began;
    }
    return 2.0 * (double)(by->tile_rows * COLUMNS * tokens) / median(samples, ROUNDS) / 1e9;
}

int main(int argc, char **argv) {
    int count = 0;
    memory = malloc(MEMORY), scales = malloc(SCALES), x = malloc(COLUMNS * sizeof *x);
    for (int64_t i = 0; i < MEMORY; i++) memory[i] = (uint8_t)((uint64_t)i * 2654435761u >> 13);
    for (int64_t i = 0; i < SCALES; i++) scales[i] = (uint8_t)(120 + i % 3);
    for (int64_t i = 0; i < COLUMNS; i++) x[i] = (float)(i * 7919 % 1000) / 500 - 1;
    for (int i = 1; i < argc && count < TABLES; i++) {
        if (!gptoss_select(argv[i])) continue;
        tables[count] = gptoss_kernels();
        packed[count++] = aligned_alloc(LINE, MOST_TOKENS * (BLOCKS + PADDED_BLOCKS) * 128);
    }
    double hertz = frequency(), rates[TABLES + 1];
    printf("%.2f GHz\n", hertz / 1e9);
    for (Kind kind = 0; kind < KINDS; kind++) {
        for (int i = 0; i < count; i++) pack(i, kind);
        cold(kind, count, rates);
        printf("%-13s read %.1f GB/s", names[kind], rates[count]);
        for (int i = 0; i < count; i++)
            printf(" | %s hot %.2f cycles/64 B, cold %.1f GB/s (%.2f of read)", tables[i]->name, hot(i, kind, hertz),
                   rates[i], rates[i] / rates[count]);
        printf("\n");
    }
    for (Kind kind = MXFP4_INT16; kind <= MXFP4_INT8; kind++)
        for (int64_t tokens = 16; tokens <= MOST_TOKENS; tokens *= 2) {
            printf("%s, %d tokens", names[kind], (int)tokens);
            for (int i = 0; i < count; i++) printf(" | %s %.0f Gop/s", tables[i]->name, tile_rate(i, kind, tokens));
            printf("\n");
        }
    return 0;
}
