/* Runs the pieces of one phase of work on several threads. */
#ifdef _OPENMP
#include <omp.h>
#endif

#include "gptoss.h"

/* 1 if the kernels run on as many threads as they are asked to, 0 if always on one. */
EXPORT int gptoss_has_threads(void) {
#ifdef _OPENMP
    return 1;
#else
    return 0;
#endif
}

void gptoss_parallel(Piece run, void *context, int64_t count, int threads) {
    (void)threads;
#pragma omp parallel num_threads(threads)
    {
        int thread = 0;
#ifdef _OPENMP
        thread = omp_get_thread_num();
#endif
#pragma omp for schedule(dynamic, 1)
        for (int64_t piece = 0; piece < count; piece++) run(context, piece, thread);
    }
}

/* A thread is worth waking for this many bytes: about 6 microseconds of reading. */
enum { BYTES_PER_THREAD = 256 * 1024 };

int gptoss_worthwhile(int64_t bytes, int threads) {
    int64_t most = 1 + bytes / BYTES_PER_THREAD;
    return most < threads ? (int)most : threads;
}
