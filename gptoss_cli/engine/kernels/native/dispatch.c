/* Chooses the kernels for this machine, and reads memory as fast as it can. */
#include <stdlib.h>

#include "gptoss.h"

#ifdef HAS_DOTPROD
#if defined(__linux__)
#include <sys/auxv.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif

typedef enum { FEATURE_DOTPROD, FEATURE_I8MM } Feature;

/* Linux: bits of arch/arm64/include/uapi/asm/hwcap.h, which older C libraries do not name. */
static int has_feature(Feature feature) {
#if defined(__linux__)
    enum { BIT_DOTPROD = 20, BIT_I8MM = 13 };
    return feature == FEATURE_DOTPROD ? getauxval(AT_HWCAP) >> BIT_DOTPROD & 1 : getauxval(AT_HWCAP2) >> BIT_I8MM & 1;
#elif defined(__APPLE__)
    int has = 0;
    size_t size = sizeof has;
    const char *name = feature == FEATURE_DOTPROD ? "hw.optional.arm.FEAT_DotProd" : "hw.optional.arm.FEAT_I8MM";
    return !sysctlbyname(name, &has, &size, NULL, 0) && has;
#else
    return (void)feature, 0;
#endif
}
#endif

static const IsaKernels *selected;

const IsaKernels *const *gptoss_tables(void) {
    static const IsaKernels *found[5];
    int count = 0;
#ifdef HAS_AVX512
    int avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                 __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                 __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi") &&
                 __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (avx512 && __builtin_cpu_supports("avx512bf16")) found[count++] = &gptoss_avx512_bf16;
    if (avx512) found[count++] = &gptoss_avx512;
#endif
#ifdef HAS_AVX2
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found[count++] = &gptoss_avx2;
#endif
#ifdef HAS_NEON
#ifdef HAS_I8MM
    if (has_feature(FEATURE_DOTPROD) && has_feature(FEATURE_I8MM)) found[count++] = &gptoss_i8mm;
#endif
#ifdef HAS_DOTPROD
    if (has_feature(FEATURE_DOTPROD)) found[count++] = &gptoss_dotprod;
#endif
    found[count++] = &gptoss_neon;
#endif
    found[count++] = &gptoss_scalar;
    found[count] = NULL;
    return found;
}

const IsaKernels *gptoss_kernels(void) {
    if (!selected) selected = gptoss_tables()[0];
    return selected;
}

/* The name of the kernels in use. */
EXPORT const char *gptoss_selected(void) { return gptoss_kernels()->name; }

/* Use the kernels of that name from now on, or the best for "". Returns 0 if this machine cannot run them. */
EXPORT int gptoss_select(const char *name) {
    for (const IsaKernels *const *table = gptoss_tables(); *table; table++)
        if (*name == '\0' || !strcmp(name, (*table)->name)) return selected = *table, 1;
    return 0;
}

/* The name of table number `index`, best first, of those that this machine can run; NULL past the last. */
EXPORT const char *gptoss_table_name(int index) {
    for (const IsaKernels *const *table = gptoss_tables(); *table; table++)
        if (index-- == 0) return (*table)->name;
    return NULL;
}

enum { READ_WORDS = 128 * 1024 };

typedef struct {
    const uint64_t *words;
    int64_t count;
    uint64_t *sums; /* of each piece */
} Read;

static void read_piece(void *context, int64_t piece, int thread) {
    const Read *r = context;
    int64_t end = (piece + 1) * READ_WORDS < r->count ? (piece + 1) * READ_WORDS : r->count;
    uint64_t sum = 0;
    (void)thread;
    for (const uint64_t *at = r->words + piece * READ_WORDS; at + 8 <= r->words + end; at += 8)
        sum += ((at[0] + at[1]) + (at[2] + at[3])) + ((at[4] + at[5]) + (at[6] + at[7]));
    r->sums[piece] = sum;
}

/* The sum of the 8-byte words of an array of whole cache lines, which is a plain read of it. 0 if there is no memory.
   */
EXPORT uint64_t gptoss_read(const uint64_t *words, int64_t count, int threads) {
    int64_t pieces = (count + READ_WORDS - 1) / READ_WORDS;
    uint64_t sum = 0, *sums = malloc((size_t)(pieces + 1) * sizeof *sums);
    if (!sums) return 0;
    Read r = {words, count, sums};
    gptoss_parallel(read_piece, &r, pieces, threads);
    for (int64_t i = 0; i < pieces; i++) sum += sums[i];
    free(sums);
    return sum;
}
