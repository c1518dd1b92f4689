/* Which instructions are used, and how fast this machine reads memory. */
#include "gptoss.h"

static const IsaKernels *selected;

static const IsaKernels *best(void) {
#ifdef HAS_AVX2
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return &gptoss_avx2;
#endif
    return &gptoss_scalar;
}

const IsaKernels *gptoss_kernels(void) { return selected ? selected : best(); }

/* The name of the instructions in use. */
EXPORT const char *gptoss_selected(void) { return gptoss_kernels()->name; }

/* Use the instructions of that name from now on, or the best for ""; 0 if this machine has none of that name. */
EXPORT int gptoss_select(const char *name) {
    const IsaKernels *found = *name == '\0' || !strcmp(name, best()->name) ? best() : NULL;
    if (!strcmp(name, gptoss_scalar.name)) found = &gptoss_scalar;
    if (found) selected = found;
    return found != NULL;
}

/* The sum of all 8-byte words of an array: a read of it, each thread one stretch, and nothing else. */
EXPORT uint64_t gptoss_read(const uint64_t *words, int64_t count, int threads) {
    uint64_t sum = 0;
    (void)threads;
#pragma omp parallel for num_threads(threads) schedule(static) reduction(+ : sum)
    for (int64_t i = 0; i < count / 8; i++) {
        const uint64_t *at = words + 8 * i;
        sum += ((at[0] + at[1]) + (at[2] + at[3])) + ((at[4] + at[5]) + (at[6] + at[7]));
    }
    return sum;
}
