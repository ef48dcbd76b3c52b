// A graphics processor that is not there: NVIDIA's driver and cuBLAS as far as `taoye plan --here` calls them, with the
// host's memory for the processor's. Calls must come in an order and with arguments that the real ones accept; what they
// refuse is refused with their numbers. Copies and products take a time that is known, so that speeds can be checked.
// Three processors: a T4 and two A100, of which the first has less free memory and cannot multiply. FAILING names a function
// that fails, BUSY leaves them little free memory, HIDDEN hides all. Must not know what is expected of a caller.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100, INVALID_CONTEXT = 201, UNKNOWN = 999 };
enum { BLAS_INVALID_VALUE = 7, BLAS_EXECUTION_FAILED = 13 };
enum { DEVICES = 3, LAST = DEVICES - 1 };
enum { MULTIPROCESSORS = 16, MAJOR = 75, MINOR = 76, POOLS = 115 };

typedef struct { uintptr_t at; size_t bytes; } Block;
static Block blocks[16];
static size_t used, total_bytes = 3u << 30;
static int initialised, retained[DEVICES], current;
static struct { uintptr_t to; const void *from; size_t bytes; } waiting[4];
static int waiting_count;
static struct timespec busy_until;

static int fails(const char *name) {
    const char *failing = getenv("FAILING");
    return failing && !strcmp(failing, name);
}

static int usable(void) {
    return !initialised ? NOT_INITIALIZED : !current || !retained[current - 1] ? INVALID_CONTEXT : OK;
}

// Work on the processor ends so much later than what was started before.
static void work(long nanoseconds) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (now.tv_sec > busy_until.tv_sec || (now.tv_sec == busy_until.tv_sec && now.tv_nsec > busy_until.tv_nsec))
        busy_until = now;
    busy_until.tv_nsec += nanoseconds;
    busy_until.tv_sec += busy_until.tv_nsec / 1000000000;
    busy_until.tv_nsec %= 1000000000;
}

static int wait(void) {
    // The host's memory is read only now: it must not have been freed.
    for (int i = 0; i < waiting_count; i++) memcpy((void *)waiting[i].to, waiting[i].from, waiting[i].bytes);
    waiting_count = 0;
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &busy_until, NULL);
    return OK;
}

// Whether `bytes` at `at` lie in a block that was allocated.
static int holds(uintptr_t at, size_t bytes) {
    for (int i = 0; i < 16; i++)
        if (blocks[i].at && at >= blocks[i].at && at + bytes <= blocks[i].at + blocks[i].bytes) return 1;
    return 0;
}

int cuInit(unsigned flags) {
    if (getenv("HIDDEN")) return NO_DEVICE;
    if (fails("cuInit")) return UNKNOWN;
    initialised = 1;
    return flags ? INVALID_VALUE : OK;
}
int cuDeviceGetCount(int *count) { *count = DEVICES; return initialised ? OK : NOT_INITIALIZED; }
int cuDeviceGet(int *device, int ordinal) {
    *device = ordinal;
    return ordinal < 0 || ordinal > LAST ? INVALID_VALUE : OK;
}
int cuDeviceGetName(char *name, int length, int device) {
    snprintf(name, length, "%s", device ? "NVIDIA A100-SXM4-80GB" : "Tesla T4");
    return OK;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == MAJOR ? (device ? 8 : 7) : attribute == POOLS ? device == LAST : 0;
    return OK;
}
int cuDevicePrimaryCtxRetain(void **context, int device) {
    retained[device]++;
    *context = (void *)(uintptr_t)(device + 1);
    return OK;
}
int cuDevicePrimaryCtxRelease_v2(int device) {
    if (used) fprintf(stderr, "driver.c: %zu bytes are not freed\n", used);
    return --retained[device] < 0 ? INVALID_CONTEXT : OK;
}
int cuCtxSetCurrent(void *context) { current = (int)(uintptr_t)context; return OK; }
int cuCtxGetCurrent(void **context) { *context = (void *)(uintptr_t)current; return OK; }
int cuCtxSynchronize(void) { return usable() ? usable() : wait(); }
int cuMemGetInfo_v2(size_t *left, size_t *total) {
    *left = (getenv("BUSY") ? total_bytes / 2 : total_bytes) - used - (current == 2 ? 1u << 28 : 0);
    *total = total_bytes;
    return usable();
}
int cuStreamCreate(void **stream, unsigned flags) { (void)flags; *stream = (void *)1; return usable(); }
int cuStreamDestroy_v2(void *stream) { return stream == (void *)1 ? OK : INVALID_VALUE; }
int cuStreamSynchronize(void *stream) { (void)stream; return usable() ? usable() : wait(); }
int cuStreamWaitEvent(void *stream, void *event, unsigned flags) { (void)stream; (void)event; (void)flags; return usable(); }
int cuEventCreate(void **event, unsigned flags) { (void)flags; *event = malloc(1); return usable(); }
int cuEventRecord(void *event, void *stream) { (void)event; (void)stream; return usable(); }
int cuEventDestroy_v2(void *event) { free(event); return OK; }
int cuMemAlloc_v2(uintptr_t *at, size_t bytes) {
    if (usable()) return usable();
    if (fails("cuMemAlloc") || used + bytes > total_bytes) return OUT_OF_MEMORY;
    for (int i = 0; i < 16; i++)
        if (!blocks[i].at) {
            blocks[i] = (Block){(uintptr_t)malloc(bytes), bytes};
            used += bytes;
            *at = blocks[i].at;
            return OK;
        }
    return OUT_OF_MEMORY;
}
int cuMemFree_v2(uintptr_t at) {
    for (int i = 0; i < 16; i++)
        if (blocks[i].at == at) {
            used -= blocks[i].bytes;
            free((void *)at);
            blocks[i] = (Block){0, 0};
            return OK;
        }
    return INVALID_VALUE;
}
// Only the last processor has pools of memory.
int cuMemAllocAsync(uintptr_t *at, size_t bytes, void *stream) {
    (void)stream;
    return current == DEVICES ? cuMemAlloc_v2(at, bytes) : UNKNOWN;
}
int cuMemFreeAsync(uintptr_t at, void *stream) {
    (void)stream;
    return current == DEVICES ? cuMemFree_v2(at) : UNKNOWN;
}
int cuMemsetD8Async(uintptr_t at, unsigned char value, size_t bytes, void *stream) {
    (void)stream;
    if (!holds(at, bytes)) return INVALID_VALUE;
    memset((void *)at, value, bytes);
    return usable();
}
int cuMemcpyHtoDAsync_v2(uintptr_t to, const void *from, size_t bytes, void *stream) {
    (void)stream;
    if (!holds(to, bytes)) return INVALID_VALUE;
    if (waiting_count == 4) wait();
    waiting[waiting_count].to = to;
    waiting[waiting_count].from = from;
    waiting[waiting_count++].bytes = bytes;
    return usable();
}
int cuMemcpyDtoDAsync_v2(uintptr_t to, uintptr_t from, size_t bytes, void *stream) {
    (void)stream;
    if (!holds(to, bytes) || !holds(from, bytes)) return INVALID_VALUE;
    work((long)(bytes / 33)); // read and written: 66 GB/s
    return usable();
}
int cuGetErrorName(int error, const char **name) {
    *name = error == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_UNKNOWN";
    return OK;
}
int cuGetErrorString(int error, const char **words) {
    *words = error == OUT_OF_MEMORY ? "out of memory" : "unknown error";
    return OK;
}

int cublasCreate_v2(void **handle) { *handle = (void *)1; return OK; }
int cublasDestroy_v2(void *handle) { return handle == (void *)1 ? OK : BLAS_INVALID_VALUE; }
int cublasSetStream_v2(void *handle, void *stream) { (void)handle; (void)stream; return OK; }
// Matrices of bf16 (14) or half (2) numbers, summed in 32 bits (68).
int cublasGemmEx(void *handle, int transa, int transb, int m, int n, int k, const void *alpha, const void *a, int a_type,
                 int lda, const void *b, int b_type, int ldb, const void *beta, void *c, int c_type, int ldc, int compute,
                 int algorithm) {
    (void)handle;
    (void)algorithm;
    if (fails("cublasGemmEx") || current == 2) return BLAS_EXECUTION_FAILED;
    size_t bytes = (size_t)m * n * 2;
    int type = current == DEVICES ? 14 : 2;
    if (transa || transb || m < 2048 || n != m || k != m || lda < m || ldb < k || ldc < m || compute != 68 ||
        a_type != type || b_type != type || c_type != type || *(const float *)alpha != 1 || *(const float *)beta != 0 ||
        !holds((uintptr_t)a, bytes) || !holds((uintptr_t)b, bytes) || !holds((uintptr_t)c, bytes))
        return BLAS_INVALID_VALUE;
    work((long)(2.0 * m * n * k / 17e3)); // 17 TFLOP/s
    return OK;
}
