/* A simulated CUDA driver: libcuda.so.1 for a machine without a GPU.
 *
 * The real cuda-python and the real pycuda run on it, so that what our code asks of the driver, and in
 * which order, is tested. It is strict where a device would only be unlucky:
 *
 *  - Device memory is mapped twice. The address handed out may not be touched (PROT_NONE), so a host that
 *    dereferences it dies at once; work in a stream uses the second mapping, and only within an allocation
 *    that is still alive. Freed addresses are never used again.
 *  - Streams are queues, each with a thread that waits before every piece of work. Without a
 *    synchronisation the answer is not there yet, and a buffer changed too early is read changed.
 *  - What breaks a rule is counted as a violation, described, and loses the device, as an illegal address
 *    does on a real one.
 *
 * Functions sim_* are for the tests. Codes are those of cuda.h.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { OK = 0, INVALID = 1, NO_MEMORY = 2, NO_DEVICE = 100, BAD_DEVICE = 101, NO_CONTEXT = 201, BAD_HANDLE = 400,
       NOT_FOUND = 500, NOT_READY = 600, ILLEGAL_ADDRESS = 700, LAUNCH_FAILED = 719, UNSUPPORTED = 801,
       CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901 };
typedef int Result;
typedef uint64_t Address;
typedef void (*HostFunction)(void *);

/* ---- state ------------------------------------------------------------------------------------------ */

#define MOST 65536
#define PAGE 4096UL
#define TOTAL_MEMORY (4UL << 30)

typedef struct { Address address; char *shadow; size_t bytes, mapped; bool alive, pinned; } Allocation;
typedef struct Event { uint64_t wanted, reached; double time; bool alive; } Event;
typedef enum { COPY, CALL, RECORD, WAIT, GRAPH } Kind;
typedef struct Graph Graph;
typedef struct Work {
    Kind kind;
    char *from, *to;       /* COPY: host addresses, or device addresses where the flags say so */
    bool from_device, to_device, owned;
    size_t bytes;
    HostFunction call; void *argument;
    Event *event; uint64_t target;
    Graph *graph;
    struct Work *next;
} Work;
struct Graph { Work *first, **last; bool alive; };
typedef struct Stream {
    pthread_t thread;
    pthread_cond_t changed;
    Work *first, **last;
    int pending;
    bool ending, alive, broken;
    Graph *capture;
} Stream;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t progress = PTHREAD_COND_INITIALIZER;
static Allocation allocations[MOST];
static int allocation_count;
static Stream *streams[1024];
static int stream_count;
static Stream default_stream_storage, *default_stream;
static size_t live_bytes, peak_bytes, memory_limit = TOTAL_MEMORY;
static long allocation_calls, live_device, live_pinned, live_streams, live_events, live_graphs, retained;
static long copies, calls_run, graph_launches, violations, api_calls;
static char violation_text[512] = "";
static int lost; /* the sticky error, or 0 */
static int delay_us = 200;
static int context_marker;
static __thread void *context_stack[64];
static __thread int context_depth;
static __thread Stream *running; /* the stream whose thread this is */

static void violation(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    if (!violations) vsnprintf(violation_text, sizeof violation_text, format, arguments);
    va_end(arguments);
    violations++;
    if (!lost) lost = ILLEGAL_ADDRESS;
}

static double now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

/* ---- faults and the counting of calls ------------------------------------------------------------------ */

typedef struct { char name[64]; long countdown; int code; } Fault;
typedef struct { char name[64]; long count; } Called;
static Fault faults[32];
static int fault_count;
static Called called[256];
static int called_count;

/* Counts a call, and gives the code that it must fail with, or 0. The lock is held. */
static int arrive(const char *name) {
    api_calls++;
    int i;
    for (i = 0; i < called_count && strcmp(called[i].name, name); i++);
    if (i == called_count && called_count < 256) snprintf(called[called_count++].name, 64, "%s", name);
    if (i < called_count) called[i].count++;
    for (i = 0; i < fault_count; i++)
        if (!strcmp(faults[i].name, name) && faults[i].countdown > 0 && --faults[i].countdown == 0) {
            if (faults[i].code >= ILLEGAL_ADDRESS && faults[i].code < UNSUPPORTED) lost = faults[i].code;
            return faults[i].code;
        }
    return lost;
}

#define ENTER(needs_context)                                                                                \
    pthread_mutex_lock(&lock);                                                                               \
    int failed = arrive(__func__);                                                                           \
    if (!failed && (needs_context) && !context_depth) failed = NO_CONTEXT;                                   \
    if (failed) { pthread_mutex_unlock(&lock); return failed; }
#define LEAVE(code) do { int answer = (code); pthread_mutex_unlock(&lock); return answer; } while (0)

/* ---- memory ----------------------------------------------------------------------------------------------- */

/* The allocation that holds all of a range, alive or not; NULL where none does. */
static Allocation *find(Address address, size_t bytes, bool pinned) {
    for (int i = allocation_count - 1; i >= 0; i--) {
        Allocation *a = &allocations[i];
        if (a->pinned == pinned && address >= a->address && address < a->address + a->bytes)
            return address + bytes <= a->address + a->bytes ? a : NULL;
    }
    return NULL;
}

/* Where work in a stream may touch a device range; NULL, and a violation, where it may not. */
static char *device_bytes(Address address, size_t bytes, const char *what) {
    Allocation *a = find(address, bytes, false);
    if (!a) { violation("%s of %zu bytes at %#lx is outside of every allocation", what, bytes, (long)address); return NULL; }
    if (!a->alive) { violation("%s of %zu bytes at %#lx uses memory that is freed", what, bytes, (long)address); return NULL; }
    return a->shadow + (address - a->address);
}

static Allocation *slot_for_allocation(void) {
    for (int i = 0; i < allocation_count; i++) /* forget the oldest dead one only when the table is full */
        if (allocation_count == MOST && !allocations[i].alive) {
            memmove(&allocations[i], &allocations[i + 1], (allocation_count - i - 1) * sizeof(Allocation));
            allocation_count--;
            break;
        }
    return allocation_count < MOST ? &allocations[allocation_count++] : NULL;
}

Result cuMemAlloc_v2(Address *address, size_t bytes) {
    ENTER(true)
    allocation_calls++;
    if (!bytes) LEAVE(INVALID);
    if (live_bytes + bytes > memory_limit) LEAVE(NO_MEMORY);
    Allocation *a = slot_for_allocation();
    if (!a) LEAVE(NO_MEMORY);
    size_t mapped = (bytes + PAGE - 1) / PAGE * PAGE;
    int file = memfd_create("device", 0);
    if (file < 0 || ftruncate(file, mapped)) LEAVE(NO_MEMORY);
    char *shadow = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    char *seen = mmap(NULL, mapped + PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    close(file);
    memset(shadow, 0xA5, mapped); /* device memory is not cleared */
    *a = (Allocation){(Address)seen, shadow, bytes, mapped, true, false};
    *address = a->address;
    live_bytes += bytes;
    if (live_bytes > peak_bytes) peak_bytes = live_bytes;
    live_device++;
    LEAVE(OK);
}

static bool all_idle(void) {
    for (int i = 0; i < stream_count; i++) if (streams[i]->alive && streams[i]->pending) return false;
    return !default_stream || !default_stream->pending;
}

Result cuMemFree_v2(Address address) {
    ENTER(true)
    while (!all_idle() && !lost) pthread_cond_wait(&progress, &lock); /* as the real one does */
    Allocation *a = find(address, 0, false);
    if (!a || a->address != address || !a->alive) {
        violation("free of %#lx, which is not allocated", (long)address);
        LEAVE(INVALID);
    }
    munmap(a->shadow, a->mapped); /* the address itself stays taken, so that its use is seen */
    a->alive = false;
    live_bytes -= a->bytes;
    live_device--;
    LEAVE(OK);
}

Result cuMemHostAlloc(void **address, size_t bytes, unsigned flags) {
    (void)flags;
    ENTER(true)
    allocation_calls++;
    Allocation *a = slot_for_allocation();
    if (!a || !bytes) LEAVE(a ? INVALID : NO_MEMORY);
    size_t mapped = (bytes + PAGE - 1) / PAGE * PAGE;
    char *data = mmap(NULL, mapped + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mprotect(data + mapped, PAGE, PROT_NONE);
    memset(data, 0x5A, mapped);
    *a = (Allocation){(Address)data, data, bytes, mapped, true, true};
    *address = data;
    live_pinned++;
    LEAVE(OK);
}
Result cuMemAllocHost_v2(void **address, size_t bytes) { return cuMemHostAlloc(address, bytes, 0); }

Result cuMemFreeHost(void *address) {
    ENTER(true)
    Allocation *a = find((Address)address, 0, true);
    if (!a || a->address != (Address)address || !a->alive) LEAVE(INVALID);
    mprotect(a->shadow, a->mapped, PROT_NONE); /* kept, so that its use is seen */
    a->alive = false;
    live_pinned--;
    LEAVE(OK);
}

Result cuMemGetInfo_v2(size_t *available, size_t *total) {
    ENTER(true)
    *available = memory_limit - live_bytes;
    *total = TOTAL_MEMORY;
    LEAVE(OK);
}

/* ---- streams ------------------------------------------------------------------------------------------------ */

static void do_copy(Work *w) {
    char *from = w->from, *to = w->to;
    if (w->from_device && !(from = device_bytes((Address)w->from, w->bytes, "a copy from the device"))) return;
    if (w->to_device && !(to = device_bytes((Address)w->to, w->bytes, "a copy to the device"))) return;
    char *host = w->from_device ? (w->to_device ? NULL : to) : from;
    Allocation *pinned = host && !w->owned ? find((Address)host, 0, true) : NULL;
    if (pinned && !pinned->alive) { violation("a copy touches pinned memory that is freed"); return; }
    memcpy(to, from, w->bytes);
    copies++;
}

/* Does one piece of work; the lock is held, and let go of while a host function runs or an event is awaited. */
static void perform(Stream *s, Work *w) {
    if (w->kind == GRAPH) {
        graph_launches++;
        for (Work *inner = w->graph->first; inner && !lost; inner = inner->next) perform(s, inner);
        return;
    }
    if (delay_us) { pthread_mutex_unlock(&lock); usleep(delay_us); pthread_mutex_lock(&lock); }
    if (lost) return;
    switch (w->kind) {
    case COPY: do_copy(w); break;
    case CALL:
        calls_run++;
        pthread_mutex_unlock(&lock);
        w->call(w->argument);
        pthread_mutex_lock(&lock);
        break;
    case RECORD:
        if (w->event->reached < w->target) w->event->reached = w->target;
        w->event->time = now_ms();
        break;
    case WAIT:
        while (w->event->reached < w->target && !lost) pthread_cond_wait(&progress, &lock);
        break;
    case GRAPH: break;
    }
}

static void *serve(void *argument) {
    Stream *s = running = argument;
    pthread_mutex_lock(&lock);
    for (;;) {
        while (!s->first && !s->ending) pthread_cond_wait(&s->changed, &lock);
        if (!s->first) break;
        Work *w = s->first;
        perform(s, w);
        s->first = w->next;
        if (!s->first) s->last = &s->first;
        s->pending--;
        if (w->owned) free(w->from);
        free(w);
        pthread_cond_broadcast(&progress);
    }
    pthread_mutex_unlock(&lock);
    return NULL;
}

static void start(Stream *s) {
    pthread_cond_init(&s->changed, NULL);
    s->last = &s->first;
    s->alive = true;
    pthread_create(&s->thread, NULL, serve, s);
}

static Stream *stream_of(void *handle) {
    if ((uintptr_t)handle > 2) {
        for (int i = 0; i < stream_count; i++) if (streams[i] == handle && streams[i]->alive) return handle;
        violation("a stream that does not exist, or not any more, is used");
        return NULL;
    }
    if (!default_stream) start(default_stream = &default_stream_storage);
    return default_stream;
}

/* Puts a piece of work into a stream, or into what it captures. The lock is held. */
static Result queue(void *handle, Work work) {
    Stream *s = stream_of(handle);
    if (!s) return BAD_HANDLE;
    Work *w = malloc(sizeof *w);
    *w = work;
    w->next = NULL;
    if (s->capture) {
        if (w->kind == RECORD || w->kind == WAIT) { s->broken = true; free(w); return CAPTURE_UNSUPPORTED; }
        *s->capture->last = w;
        s->capture->last = &w->next;
        return OK;
    }
    *s->last = w;
    s->last = &w->next;
    s->pending++;
    pthread_cond_signal(&s->changed);
    return OK;
}

static Result wait_idle(Stream *s) {
    if (s->capture) { s->broken = true; return CAPTURE_UNSUPPORTED; }
    while (s->pending && !lost) pthread_cond_wait(&progress, &lock);
    return lost;
}

Result cuStreamCreate(void **handle, unsigned flags) {
    (void)flags;
    ENTER(true)
    if (stream_count == 1024) LEAVE(NO_MEMORY);
    Stream *s = calloc(1, sizeof *s);
    start(s);
    streams[stream_count++] = s;
    *handle = s;
    live_streams++;
    LEAVE(OK);
}
Result cuStreamCreateWithPriority(void **handle, unsigned flags, int priority) { (void)priority; return cuStreamCreate(handle, flags); }

Result cuStreamDestroy_v2(void *handle) {
    ENTER(true)
    Stream *s = stream_of(handle);
    if (!s) LEAVE(BAD_HANDLE);
    s->alive = false; /* what waits in it is still done, by its thread */
    s->ending = true;
    pthread_cond_signal(&s->changed);
    pthread_detach(s->thread);
    live_streams--;
    LEAVE(OK);
}

Result cuStreamSynchronize(void *handle) {
    ENTER(true)
    Stream *s = stream_of(handle);
    LEAVE(s ? wait_idle(s) : BAD_HANDLE);
}

Result cuStreamQuery(void *handle) {
    ENTER(true)
    Stream *s = stream_of(handle);
    LEAVE(!s ? BAD_HANDLE : s->pending ? NOT_READY : OK);
}

Result cuCtxSynchronize(void) {
    ENTER(true)
    while (!all_idle() && !lost) pthread_cond_wait(&progress, &lock);
    LEAVE(lost);
}

Result cuLaunchHostFunc(void *handle, HostFunction call, void *argument) {
    ENTER(true)
    LEAVE(queue(handle, (Work){.kind = CALL, .call = call, .argument = argument}));
}

/* ---- copies ---------------------------------------------------------------------------------------------------- */

/* Pageable host memory is staged at once, and a copy into it is waited for, as the driver does. */
Result cuMemcpyHtoDAsync_v2(Address to, const void *from, size_t bytes, void *handle) {
    ENTER(true)
    Work w = {.kind = COPY, .from = (char *)from, .to = (char *)to, .to_device = true, .bytes = bytes};
    if (!find((Address)from, 0, true)) {
        w.from = memcpy(malloc(bytes), from, bytes);
        w.owned = true;
    }
    LEAVE(queue(handle, w));
}

Result cuMemcpyDtoHAsync_v2(void *to, Address from, size_t bytes, void *handle) {
    ENTER(true)
    Result answer = queue(handle, (Work){.kind = COPY, .from = (char *)from, .to = to, .from_device = true, .bytes = bytes});
    Stream *s = stream_of(handle);
    if (!answer && s && !find((Address)to, 0, true)) answer = wait_idle(s);
    LEAVE(answer);
}

Result cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, void *handle) {
    ENTER(true)
    LEAVE(queue(handle, (Work){.kind = COPY, .from = (char *)from, .to = (char *)to, .from_device = true, .to_device = true, .bytes = bytes}));
}

Result cuMemcpyHtoD_v2(Address to, const void *from, size_t bytes) {
    Result answer = cuMemcpyHtoDAsync_v2(to, from, bytes, NULL);
    return answer ? answer : cuStreamSynchronize(NULL);
}
Result cuMemcpyDtoH_v2(void *to, Address from, size_t bytes) {
    Result answer = cuMemcpyDtoHAsync_v2(to, from, bytes, NULL);
    return answer ? answer : cuStreamSynchronize(NULL);
}

/* ---- events ------------------------------------------------------------------------------------------------------ */

Result cuEventCreate(void **handle, unsigned flags) {
    (void)flags;
    ENTER(true)
    Event *e = calloc(1, sizeof *e);
    e->alive = true;
    *handle = e;
    live_events++;
    LEAVE(OK);
}
Result cuEventDestroy_v2(void *handle) {
    ENTER(true)
    Event *e = handle; /* never given back: a stream may still wait for it */
    if (!e->alive) LEAVE(BAD_HANDLE);
    e->alive = false;
    live_events--;
    LEAVE(OK);
}
Result cuEventRecord(void *handle, void *stream) {
    ENTER(true)
    Event *e = handle;
    if (!e->alive) { violation("an event that is destroyed is recorded"); LEAVE(BAD_HANDLE); }
    LEAVE(queue(stream, (Work){.kind = RECORD, .event = e, .target = ++e->wanted}));
}
Result cuStreamWaitEvent(void *stream, void *handle, unsigned flags) {
    (void)flags;
    ENTER(true)
    Event *e = handle;
    LEAVE(e->alive ? queue(stream, (Work){.kind = WAIT, .event = e, .target = e->wanted}) : BAD_HANDLE);
}
Result cuEventSynchronize(void *handle) {
    ENTER(true)
    Event *e = handle;
    while (e->reached < e->wanted && !lost) pthread_cond_wait(&progress, &lock);
    LEAVE(lost);
}
Result cuEventQuery(void *handle) {
    ENTER(true)
    Event *e = handle;
    LEAVE(e->reached < e->wanted ? NOT_READY : OK);
}
Result cuEventElapsedTime(float *ms, void *start, void *end) {
    ENTER(true)
    Event *a = start, *b = end;
    if (!a->wanted || !b->wanted) LEAVE(BAD_HANDLE);
    if (a->reached < a->wanted || b->reached < b->wanted) LEAVE(NOT_READY);
    *ms = (float)(b->time - a->time);
    LEAVE(OK);
}
Result cuEventElapsedTime_v2(float *ms, void *start, void *end) { return cuEventElapsedTime(ms, start, end); }

/* ---- graphs --------------------------------------------------------------------------------------------------------- */

Result cuStreamBeginCapture_v2(void *handle, int mode) {
    (void)mode;
    ENTER(true)
    Stream *s = stream_of(handle);
    if (!s || s->capture) LEAVE(INVALID);
    s->capture = calloc(1, sizeof(Graph));
    s->capture->last = &s->capture->first;
    s->broken = false;
    LEAVE(OK);
}
Result cuStreamEndCapture(void *handle, void **graph) {
    ENTER(true)
    Stream *s = stream_of(handle);
    if (!s || !s->capture) LEAVE(INVALID);
    *graph = s->broken ? NULL : s->capture;
    s->capture = NULL;
    LEAVE(s->broken ? CAPTURE_INVALIDATED : OK);
}
Result cuStreamIsCapturing(void *handle, int *status) {
    ENTER(true)
    Stream *s = stream_of(handle);
    *status = s && s->capture;
    LEAVE(OK);
}
Result cuGraphInstantiateWithFlags(void **executable, void *graph, unsigned long long flags) {
    (void)flags;
    ENTER(true)
    if (!graph) LEAVE(INVALID);
    Graph *copy = malloc(sizeof *copy);
    *copy = *(Graph *)graph; /* the work itself is shared and never given back: tests are short */
    copy->alive = true;
    *executable = copy;
    live_graphs++;
    LEAVE(OK);
}
Result cuGraphDestroy(void *graph) { (void)graph; ENTER(true) LEAVE(OK); }
Result cuGraphExecDestroy(void *handle) {
    ENTER(true)
    Graph *g = handle;
    if (!g->alive) LEAVE(INVALID);
    g->alive = false;
    live_graphs--;
    LEAVE(OK);
}
Result cuGraphLaunch(void *handle, void *stream) {
    ENTER(true)
    Graph *g = handle;
    if (!g->alive) { violation("a graph that is destroyed is launched"); LEAVE(INVALID); }
    LEAVE(queue(stream, (Work){.kind = GRAPH, .graph = g}));
}

/* ---- devices and contexts ----------------------------------------------------------------------------------------------- */

Result cuInit(unsigned flags) { (void)flags; ENTER(false) LEAVE(OK); }
Result cuDriverGetVersion(int *version) { *version = 13000; return OK; }
Result cuDeviceGetCount(int *count) { ENTER(false) *count = 1; LEAVE(OK); }
Result cuDeviceGet(int *device, int index) { ENTER(false) *device = 0; LEAVE(index ? BAD_DEVICE : OK); }
Result cuDeviceGetName(char *name, int length, int device) { (void)device; snprintf(name, length, "Simulated GPU"); return OK; }
Result cuDeviceTotalMem_v2(size_t *bytes, int device) { (void)device; *bytes = TOTAL_MEMORY; return OK; }
Result cuDeviceGetAttribute(int *value, int attribute, int device) {
    (void)device;
    *value = attribute == 75 ? 8 : attribute == 76 ? 6 : 1; /* compute capability 8.6 */
    return OK;
}
Result cuDeviceComputeCapability(int *major, int *minor, int device) { (void)device; *major = 8; *minor = 6; return OK; }
Result cuDevicePrimaryCtxRetain(void **context, int device) {
    (void)device;
    ENTER(false)
    retained++;
    *context = &context_marker;
    LEAVE(OK);
}
Result cuDevicePrimaryCtxRelease_v2(int device) { (void)device; ENTER(false) retained--; LEAVE(OK); }
Result cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) { (void)device; *flags = 0; *active = retained > 0; return OK; }
Result cuDevicePrimaryCtxSetFlags_v2(int device, unsigned flags) { (void)device; (void)flags; return OK; }
Result cuCtxPushCurrent_v2(void *context) { /* works on a lost device too */
    pthread_mutex_lock(&lock);
    arrive(__func__);
    if (context_depth == 64) LEAVE(INVALID);
    context_stack[context_depth++] = context;
    LEAVE(OK);
}
Result cuCtxPopCurrent_v2(void **context) {
    pthread_mutex_lock(&lock); /* also where the device is lost, so that the stack stays in order */
    if (!context_depth) LEAVE(NO_CONTEXT);
    context_depth--;
    if (context) *context = context_stack[context_depth];
    LEAVE(OK);
}
Result cuCtxGetCurrent(void **context) { *context = context_depth ? context_stack[context_depth - 1] : NULL; return OK; }
Result cuCtxSetCurrent(void *context) {
    if (context_depth) context_depth--;
    if (context) context_stack[context_depth++] = context;
    return OK;
}
Result cuCtxGetDevice(int *device) { *device = 0; return context_depth ? OK : NO_CONTEXT; }
Result cuCtxGetApiVersion(void *context, unsigned *version) { (void)context; *version = 3020; return OK; }
Result cuCtxAttach(void **context, unsigned flags) { (void)flags; *context = &context_marker; return OK; }
Result cuCtxDetach(void *context) { (void)context; return OK; }

/* ---- words and symbols ------------------------------------------------------------------------------------------------------ */

/* As the driver's own, because the bindings pass them on and callers tell a lost device by them. */
static const struct { Result code; const char *name, *words; } errors[] = {
    {OK, "CUDA_SUCCESS", "no error"},
    {NO_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {702, "CUDA_ERROR_LAUNCH_TIMEOUT", "the launch timed out and was terminated"},
    {714, "CUDA_ERROR_HARDWARE_STACK_ERROR", "hardware stack error"},
    {715, "CUDA_ERROR_ILLEGAL_INSTRUCTION", "an illegal instruction was encountered"},
    {716, "CUDA_ERROR_MISALIGNED_ADDRESS", "misaligned address"},
    {717, "CUDA_ERROR_INVALID_ADDRESS_SPACE", "operation not supported on global/shared address space"},
    {718, "CUDA_ERROR_INVALID_PC", "invalid program counter"},
    {LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {721, "CUDA_ERROR_TENSOR_MEMORY_LEAK", "tensor memory not completely freed"},
};

static Result tell(Result code, const char **text, int words) {
    *text = "CUDA_ERROR (simulated)";
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
        if (errors[i].code == code) *text = words ? errors[i].words : errors[i].name;
    return OK;
}
Result cuGetErrorName(Result code, const char **text) { return tell(code, text, 0); }
Result cuGetErrorString(Result code, const char **text) { return tell(code, text, 1); }

Result cuGetProcAddress_v2(const char *symbol, void **function, int version, uint64_t flags, int *status) {
    (void)version; (void)flags;
    char versioned[128];
    static void *self;
    if (!self) { Dl_info info; dladdr((void *)cuInit, &info); self = dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD); }
    *function = NULL;
    for (int v = 3; v >= 2 && !*function; v--) {
        snprintf(versioned, sizeof versioned, "%s_v%d", symbol, v);
        *function = dlsym(self, versioned);
    }
    if (!*function) *function = dlsym(self, symbol);
    if (!*function && !strcmp(symbol, "cuGraphInstantiate")) *function = dlsym(self, "cuGraphInstantiateWithFlags");
    if (status) *status = *function ? 0 : 1;
    return *function ? OK : NOT_FOUND;
}
Result cuGetProcAddress(const char *symbol, void **function, int version, uint64_t flags) {
    return cuGetProcAddress_v2(symbol, function, version, flags, NULL);
}

/* ---- for the tests -------------------------------------------------------------------------------------------------------------- */

long sim_count(const char *what) {
    struct { const char *name; long value; } all[] = {
        {"live_bytes", (long)live_bytes}, {"peak_bytes", (long)peak_bytes}, {"allocations", allocation_calls},
        {"device", live_device}, {"pinned", live_pinned}, {"streams", live_streams}, {"events", live_events},
        {"graphs", live_graphs}, {"retained", retained}, {"copies", copies}, {"host_calls", calls_run},
        {"graph_launches", graph_launches}, {"violations", violations}, {"lost", lost}, {"api_calls", api_calls}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) if (!strcmp(all[i].name, what)) return all[i].value;
    for (int i = 0; i < called_count; i++) if (!strcmp(called[i].name, what)) return called[i].count;
    return 0;
}
const char *sim_violation(void) { return violation_text; }
const char *sim_called(int index) { return index < called_count ? called[index].name : NULL; }
void sim_delay(int microseconds) { delay_us = microseconds; }
void sim_memory(size_t bytes) { memory_limit = bytes; }
int sim_in_stream(void) { return running != NULL; }

/* Makes the n-th call of a function from now on fail; codes 700 to 799 lose the device for good.
   With nth 0 all faults that have not come yet are forgotten. */
void sim_fault(const char *name, long nth, int code) {
    pthread_mutex_lock(&lock);
    if (nth < 1) fault_count = 0; /* forget them all */
    else if (fault_count < 32) {
        snprintf(faults[fault_count].name, 64, "%s", name);
        faults[fault_count].countdown = nth;
        faults[fault_count++].code = code;
    }
    pthread_mutex_unlock(&lock);
}

/* Where a host function in a stream may read and write a device range; NULL, and a violation, elsewhere. */
void *sim_map(Address address, size_t bytes) {
    pthread_mutex_lock(&lock);
    char *found = NULL;
    if (!running) violation("device memory is touched from outside of a stream");
    else found = device_bytes(address, bytes, "a kernel's use");
    pthread_mutex_unlock(&lock);
    return found;
}

/* What a kernel that found something wrong does: the device is lost. */
void sim_fail(const char *why) {
    pthread_mutex_lock(&lock);
    violation("%s", why);
    lost = LAUNCH_FAILED;
    pthread_cond_broadcast(&progress);
    pthread_mutex_unlock(&lock);
}
