/* A pool of threads that runs the pieces of one phase of work after another.

   A waiting thread spins for a few tens of microseconds, as long as the gap between two phases, and then sleeps: on a
   busy machine a spinning thread takes the core of the thread that it waits for. For the same reason no phase waits for
   a thread to arrive: those that run take all pieces, and the phase ends with the last piece. */
#define _POSIX_C_SOURCE 200809L

#include "gptoss.h"

#if (defined(__unix__) || defined(__APPLE__)) && !defined(__STDC_NO_ATOMICS__)
#define HAS_THREADS 1
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>
#endif

/* A thread is worth waking for this many bytes: about 6 microseconds of reading. */
enum { BYTES_PER_THREAD = 256 * 1024 };

int gptoss_worthwhile(int64_t bytes, int threads) {
    int64_t most = 1 + bytes / BYTES_PER_THREAD;
    return most < threads ? (int)most : threads;
}

#ifndef HAS_THREADS

EXPORT int gptoss_has_threads(void) { return 0; }

EXPORT int64_t gptoss_worked(void) { return 0; }

void gptoss_parallel(Piece run, void *context, int64_t count, int threads) {
    (void)threads;
    for (int64_t piece = 0; piece < count; piece++) run(context, piece, 0);
}

#else

enum { MOST_THREADS = 256, SPIN_NANOSECONDS = 50 * 1000, PAUSES_PER_LOOK = 16 };

/* The pieces of one thread that have not been taken, in one word so that a compare-and-swap takes one:

       63           40 39         20 19          0
      | phase modulo 2^24 |    next    |    end    |

   The thread itself takes piece `next`, others take piece `end - 1`. A thread that is late finds another phase in the
   word and takes nothing. */
typedef struct {
    _Alignas(64) _Atomic uint64_t word;
} Share;

enum { INDEX_BITS = 20, PHASE_BITS = 24 };
#define INDEX_MASK ((UINT64_C(1) << INDEX_BITS) - 1)
#define PHASE_MASK ((UINT64_C(1) << PHASE_BITS) - 1)

/* run, context, stride, count and threads belong to the phase. They change only when no piece is left. */
static struct {
    pthread_mutex_t calling; /* held by the caller of a phase: there is one phase at a time */
    pthread_mutex_t lock;    /* for the conditions */
    pthread_cond_t begun, ended;
    Piece run;
    void *context;
    int64_t stride; /* pieces that are taken at once */
    int64_t count;
    int workers; /* started so far */
    int watches_fork;
    _Atomic int threads;
    _Atomic uint64_t phase;
    _Atomic int sleeping;     /* workers that wait for `begun` */
    _Atomic int caller_waits; /* for `ended` */
    _Atomic int64_t left;     /* pieces that are not done */
    _Atomic int64_t worked;   /* nanoseconds in pieces, of all threads together */
    Share shares[MOST_THREADS];
} pool = {.calling = PTHREAD_MUTEX_INITIALIZER,
          .lock = PTHREAD_MUTEX_INITIALIZER,
          .begun = PTHREAD_COND_INITIALIZER,
          .ended = PTHREAD_COND_INITIALIZER};

EXPORT int gptoss_has_threads(void) { return 1; }

/* The nanoseconds that the threads have spent on the pieces of phases so far, all threads together. */
EXPORT int64_t gptoss_worked(void) { return atomic_load(&pool.worked); }

static int64_t nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static inline void pause_core(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Take a piece from the share of `owner`. Returns -1 if none is left in this phase. */
static int64_t take(int owner, int is_owner, uint64_t phase) {
    _Atomic uint64_t *word = &pool.shares[owner].word;
    uint64_t seen = atomic_load(word);
    for (;;) {
        uint64_t next = seen >> INDEX_BITS & INDEX_MASK, end = seen & INDEX_MASK;
        if (seen >> (2 * INDEX_BITS) != (phase & PHASE_MASK) || next == end) return -1;
        uint64_t rest = is_owner ? seen + (UINT64_C(1) << INDEX_BITS) : seen - 1;
        if (atomic_compare_exchange_weak(word, &seen, rest)) return (int64_t)(is_owner ? next : end - 1);
    }
}

/* Run the thread's own share of the phase, and then what is left of the others'. */
static void run_pieces(int thread, uint64_t phase) {
    int threads = atomic_load(&pool.threads);
    int64_t done = 0, began = nanoseconds();
    if (thread >= threads) return;
    for (int i = 0; i < threads; i++) {
        int owner = (thread + i) % threads;
        for (int64_t piece; (piece = take(owner, i == 0, phase)) >= 0; done++) {
            /* The phase cannot end before this piece is counted, so its fields stay as they are. */
            int64_t end = (piece + 1) * pool.stride < pool.count ? (piece + 1) * pool.stride : pool.count;
            for (int64_t at = piece * pool.stride; at < end; at++) pool.run(pool.context, at, thread);
        }
    }
    if (done) atomic_fetch_add(&pool.worked, nanoseconds() - began);
    if (done && atomic_fetch_sub(&pool.left, done) == done && atomic_load(&pool.caller_waits)) {
        pthread_mutex_lock(&pool.lock);
        pthread_cond_signal(&pool.ended);
        pthread_mutex_unlock(&pool.lock);
    }
}

/* Wait for a phase after `last`. */
static uint64_t next_phase(uint64_t last) {
    uint64_t phase;
    int64_t until = nanoseconds() + SPIN_NANOSECONDS;
    do {
        for (int i = 0; i < PAUSES_PER_LOOK; i++, pause_core())
            if ((phase = atomic_load(&pool.phase)) != last) return phase;
    } while (nanoseconds() < until);
    pthread_mutex_lock(&pool.lock);
    atomic_fetch_add(&pool.sleeping, 1);
    while ((phase = atomic_load(&pool.phase)) == last) pthread_cond_wait(&pool.begun, &pool.lock);
    atomic_fetch_sub(&pool.sleeping, 1);
    pthread_mutex_unlock(&pool.lock);
    return phase;
}

static void *work(void *argument) {
    int thread = (int)(intptr_t)argument;
    for (uint64_t phase = 0;;) {
        phase = next_phase(phase);
        run_pieces(thread, phase);
    }
    return NULL;
}

static void wait_for_end(void) {
    int64_t until = nanoseconds() + SPIN_NANOSECONDS;
    do {
        for (int i = 0; i < PAUSES_PER_LOOK; i++, pause_core())
            if (atomic_load(&pool.left) == 0) return;
    } while (nanoseconds() < until);
    pthread_mutex_lock(&pool.lock);
    atomic_store(&pool.caller_waits, 1);
    while (atomic_load(&pool.left) != 0) pthread_cond_wait(&pool.ended, &pool.lock);
    atomic_store(&pool.caller_waits, 0);
    pthread_mutex_unlock(&pool.lock);
}

/* A forked child has only the thread that forked. */
static void forget_workers(void) {
    pool.workers = 0;
    atomic_store(&pool.sleeping, 0);
    atomic_store(&pool.caller_waits, 0);
    pthread_mutex_init(&pool.calling, NULL);
    pthread_mutex_init(&pool.lock, NULL);
    pthread_cond_init(&pool.begun, NULL);
    pthread_cond_init(&pool.ended, NULL);
}

/* Start workers up to `count`, or as many as the system allows. All signals are left to the program's other threads. */
static void start_workers(int count) {
    sigset_t all, before;
    if (!pool.watches_fork) pool.watches_fork = pthread_atfork(NULL, NULL, forget_workers) == 0;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (pthread_t thread; pool.workers < count; pool.workers++) {
        if (pthread_create(&thread, NULL, work, (void *)(intptr_t)(pool.workers + 1))) break;
        pthread_detach(thread);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static uint64_t begin_phase(int64_t count, int threads) {
    uint64_t phase = atomic_load(&pool.phase) + 1;
    atomic_store(&pool.threads, threads);
    atomic_store(&pool.left, count);
    for (int i = 0; i < threads; i++) {
        uint64_t next = (uint64_t)(count * i / threads), end = (uint64_t)(count * (i + 1) / threads);
        atomic_store(&pool.shares[i].word,
                     (phase & PHASE_MASK) << (2 * INDEX_BITS) | next << INDEX_BITS | end);
    }
    atomic_store(&pool.phase, phase);
    if (atomic_load(&pool.sleeping)) {
        pthread_mutex_lock(&pool.lock);
        pthread_cond_broadcast(&pool.begun);
        pthread_mutex_unlock(&pool.lock);
    }
    return phase;
}

void gptoss_parallel(Piece run, void *context, int64_t count, int threads) {
    if (threads > MOST_THREADS) threads = MOST_THREADS;
    if (threads > count) threads = (int)count;
    /* Another caller has the pool: this one does its work itself. */
    if (threads <= 1 || pthread_mutex_trylock(&pool.calling)) {
        for (int64_t piece = 0; piece < count; piece++) run(context, piece, 0);
        return;
    }
    if (pool.workers < threads - 1) start_workers(threads - 1);
    pool.run = run, pool.context = context, pool.count = count;
    pool.stride = 1 + count / (int64_t)INDEX_MASK;
    run_pieces(0, begin_phase((count + pool.stride - 1) / pool.stride, threads));
    wait_for_end();
    pthread_mutex_unlock(&pool.calling);
}

#endif
