/* What this processor can do at most: fused multiply-adds in f32, and reading memory.
 *
 *     cc -O3 -pthread bench/limits.c -o limits && ./limits [--json]
 *
 * Each figure is the best of several short runs, on one thread and on two. Instruction sets are found at run time.
 * A multiply-add counts as two operations; 1 GB is 10^9 bytes.
 */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define THREADS_MAX 2
#define RUNS 7
#define CHAINS 12 /* independent accumulators: more than latency times throughput of any core so far */
#define STREAMS_MAX 4
#define FMA_ITERATIONS 20000000L
#define MEMORY_BYTES ((size_t)512 << 20)

typedef struct {
    long iterations;   /* for the arithmetic */
    const char *bytes; /* for the reading */
    size_t length;
    int streams;
    double keep; /* results go here, so that nothing is optimised away */
} Work;

typedef struct {
    const char *name;
    int lanes; /* of f32 */
    void (*multiply_add)(Work *);
    void (*read)(Work *);
} InstructionSet;

/* One pair of functions for each vector width; `attributes` names the instruction set. */
#define DEFINE_INSTRUCTION_SET(name, lanes, attributes)                                                         \
    typedef float name##_floats __attribute__((vector_size(4 * (lanes))));                                      \
    typedef int32_t name##_integers __attribute__((vector_size(4 * (lanes))));                                  \
    attributes static void name##_multiply_add(Work *work) {                                                    \
        name##_floats chain[CHAINS], factor, term;                                                              \
        volatile float start = 0.75f, factor_value = 0.999f, term_value = 0.001f;                               \
        for (int lane = 0; lane < (lanes); lane++) {                                                            \
            factor[lane] = factor_value;                                                                        \
            term[lane] = term_value;                                                                            \
            for (int i = 0; i < CHAINS; i++) chain[i][lane] = start;                                            \
        }                                                                                                       \
        for (long n = 0; n < work->iterations; n++)                                                             \
            for (int i = 0; i < CHAINS; i++) chain[i] = chain[i] * factor + term;                               \
        name##_floats sum = chain[0];                                                                           \
        for (int i = 1; i < CHAINS; i++) sum += chain[i];                                                       \
        work->keep = sum[0];                                                                                    \
    }                                                                                                           \
    attributes static void name##_read(Work *work) {                                                            \
        name##_integers sum[STREAMS_MAX] = {0};                                                                 \
        size_t stream_length = work->length / work->streams;                                                    \
        for (size_t at = 0; at < stream_length; at += 256)                                                      \
            for (int s = 0; s < work->streams; s++) {                                                           \
                const name##_integers *from = (const void *)(work->bytes + s * stream_length + at);             \
                name##_integers part = {0};                                                                     \
                for (int i = 0; i < 256 / (4 * (lanes)); i++) part += from[i];                                  \
                sum[s] += part;                                                                                 \
            }                                                                                                   \
        work->keep = (sum[0] + sum[1] + sum[2] + sum[3])[0];                                                    \
    }

#if defined(__x86_64__)
DEFINE_INSTRUCTION_SET(avx512, 16, __attribute__((target("avx512f,prefer-vector-width=512"))))
DEFINE_INSTRUCTION_SET(avx2, 8, __attribute__((target("avx2,fma"))))
#else
DEFINE_INSTRUCTION_SET(baseline, 4, )
#endif

static int instruction_sets(InstructionSet *sets) {
    int count = 0;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f"))
        sets[count++] = (InstructionSet){"avx512", 16, avx512_multiply_add, avx512_read};
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        sets[count++] = (InstructionSet){"avx2", 8, avx2_multiply_add, avx2_read};
#else
    sets[count++] = (InstructionSet){"baseline", 4, baseline_multiply_add, baseline_read};
#endif
    return count;
}

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + 1e-9 * now.tv_nsec;
}

typedef struct {
    void (*function)(Work *);
    Work work;
} Job;

static void *run_job(void *argument) {
    Job *job = argument;
    job->function(&job->work);
    return NULL;
}

/* The shortest of several runs of `function` on `threads` threads, which divide the bytes between them. */
static double best_seconds(void (*function)(Work *), Work work, int threads) {
    double best = 1e30;
    for (int run = 0; run < RUNS; run++) {
        Job jobs[THREADS_MAX];
        pthread_t handles[THREADS_MAX];
        double start = seconds();
        for (int t = 0; t < threads; t++) {
            jobs[t] = (Job){function, work};
            jobs[t].work.length = work.length / threads;
            jobs[t].work.bytes = work.bytes ? work.bytes + t * jobs[t].work.length : NULL;
            if (pthread_create(&handles[t], NULL, run_job, &jobs[t]) != 0) {
                perror("pthread_create");
                exit(1);
            }
        }
        for (int t = 0; t < threads; t++) pthread_join(handles[t], NULL);
        double elapsed = seconds() - start;
        if (elapsed < best) best = elapsed;
    }
    return best;
}

int main(int argument_count, char **arguments) {
    int json = argument_count > 1 && strcmp(arguments[1], "--json") == 0;
    InstructionSet sets[2];
    int count = instruction_sets(sets);
    if (count == 0) {
        fprintf(stderr, "limits: this processor has neither AVX-512 nor AVX2 with FMA, and nothing else is measured\n");
        return 1;
    }
    if (json) printf("{");
    for (int set = 0; set < count; set++)
        for (int threads = 1; threads <= THREADS_MAX; threads++) {
            Work work = {.iterations = FMA_ITERATIONS};
            double operations = 2.0 * sets[set].lanes * CHAINS * FMA_ITERATIONS * threads;
            double rate = operations / best_seconds(sets[set].multiply_add, work, threads) / 1e9;
            if (json) printf("\"fma_%s_%d_gflops\": %.1f, ", sets[set].name, threads, rate);
            else printf("fused multiply-add, %-8s %d thread%s  %8.1f GFLOP/s\n", sets[set].name, threads,
                        threads == 1 ? " :" : "s:", rate);
        }

    char *bytes = mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (bytes == MAP_FAILED) {
        perror("mmap");
        return 1;
    }
    madvise(bytes, MEMORY_BYTES, MADV_HUGEPAGE);
    memset(bytes, 1, MEMORY_BYTES);
    for (int threads = 1; threads <= THREADS_MAX; threads++) {
        double rate = 0;
        for (int streams = 1; streams <= STREAMS_MAX; streams *= 2) {
            Work work = {.bytes = bytes, .length = MEMORY_BYTES, .streams = streams};
            double one = MEMORY_BYTES / best_seconds(sets[0].read, work, threads) / 1e9;
            if (one > rate) rate = one;
        }
        if (json) printf("\"read_%d_gb_per_s\": %.1f%s", threads, rate, threads == THREADS_MAX ? "}\n" : ", ");
        else printf("memory read, best of 1 to %d streams, %d thread%s %8.1f GB/s\n", STREAMS_MAX, threads,
                    threads == 1 ? " :" : "s:", rate);
    }
    munmap(bytes, MEMORY_BYTES);
    return 0;
}
