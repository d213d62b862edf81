// Stub of libcuda, with which the real cuda-bindings runs: memory is the host's, and everything happens at once.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef int Result;
typedef unsigned long long Handle;
enum { CONTEXT = 0x11, STREAM = 0x22, EVENT = 0x33, MODULE = 0x44, FUNCTION = 0x55 };
enum { INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_DEVICE = 101, INVALID_IMAGE = 200, INVALID_CONTEXT = 201, INVALID_HANDLE = 400, NOT_FOUND = 500 };
static int depth, destroyed;

// cuda-bindings asks for every function by its name without the version.
Result cuGetProcAddress_v2(const char *name, void **function, int version, unsigned long long flags, int *status) {
    static const char *const suffixes[] = {"_v2", ""};
    void *library = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
    *function = NULL;
    for (int i = 0; i < 2 && !*function; ++i) {
        char versioned[128];
        snprintf(versioned, sizeof(versioned), "%s%s", name, suffixes[i]);
        *function = dlsym(library, versioned);
    }
    if (status) *status = *function ? 0 : 1;
    return *function ? 0 : NOT_FOUND;
}
Result cuInit(unsigned flags) { return flags ? INVALID_VALUE : 0; }
Result cuDriverGetVersion(int *version) { *version = 13000; return 0; }
Result cuDeviceGet(int *device, int index) { *device = index; return index ? INVALID_DEVICE : 0; }
Result cuDeviceGetCount(int *count) { *count = 1; return 0; }
Result cuDeviceGetName(char *name, int length, int device) { strncpy(name, "Stub", length); return 0; }
Result cuDeviceGetAttribute(int *value, int attribute, int device) { *value = attribute == 75 ? 9 : attribute == 76 ? 1 : -1; return 0; }
Result cuDevicePrimaryCtxRetain(Handle *context, int device) { *context = CONTEXT; return 0; }
Result cuCtxPushCurrent_v2(Handle context) { ++depth; return context == CONTEXT ? 0 : INVALID_CONTEXT; }
Result cuCtxPopCurrent_v2(Handle *context) { *context = CONTEXT; return depth && depth-- ? 0 : INVALID_CONTEXT; }
Result cuMemGetInfo_v2(size_t *free, size_t *total) { *free = 123; *total = 456; return 0; }
Result cuMemAlloc_v2(Handle *memory, size_t size) {
    if (!size || size >> 32) return size ? OUT_OF_MEMORY : INVALID_VALUE;
    *memory = (Handle)malloc(size);
    return 0;
}
Result cuMemFree_v2(Handle memory) { free((void *)memory); return 0; }
Result cuMemHostAlloc(void **memory, size_t size, unsigned flags) { *memory = malloc(size); return flags; }
Result cuMemFreeHost(void *memory) { free(memory); return 0; }
static Result copy(Handle to, Handle from, size_t size, Handle stream) {
    memcpy((void *)to, (void *)from, size);
    return stream == STREAM || !stream ? 0 : INVALID_HANDLE;
}
Result cuMemcpyHtoDAsync_v2(Handle to, void *from, size_t size, Handle stream) { return copy(to, (Handle)from, size, stream); }
Result cuMemcpyDtoHAsync_v2(void *to, Handle from, size_t size, Handle stream) { return copy((Handle)to, from, size, stream); }
Result cuMemcpyDtoDAsync_v2(Handle to, Handle from, size_t size, Handle stream) { return copy(to, from, size, stream); }
Result cuMemsetD8Async(Handle to, unsigned char value, size_t count, Handle stream) { memset((void *)to, value, count); return 0; }
Result cuMemsetD32Async(Handle to, unsigned value, size_t count, Handle stream) {
    while (count) ((unsigned *)to)[--count] = value;
    return 0;
}
Result cuStreamCreate(Handle *stream, unsigned flags) { *stream = STREAM; return flags == 1 ? 0 : INVALID_VALUE; }
Result cuStreamDestroy_v2(Handle stream) { destroyed += stream == STREAM; return 0; }
Result cuStreamSynchronize(Handle stream) { usleep(100000); return stream == STREAM ? 0 : INVALID_HANDLE; }
Result cuStreamWaitEvent(Handle stream, Handle event, unsigned flags) { return stream == STREAM && event == EVENT && !flags ? 0 : INVALID_HANDLE; }
Result cuEventCreate(Handle *event, unsigned flags) { *event = EVENT; return flags == 3 ? 0 : INVALID_VALUE; }
Result cuEventDestroy_v2(Handle event) { destroyed += event == EVENT; return 0; }
Result cuEventRecord(Handle event, Handle stream) { return event == EVENT && (stream == STREAM || !stream) ? 0 : INVALID_HANDLE; }
Result cuEventSynchronize(Handle event) { usleep(100000); return event == EVENT ? 0 : INVALID_HANDLE; }
Result cuModuleLoadData(Handle *module, const void *image) { *module = MODULE; return memcmp(image, "\x7f" "ELF", 4) ? INVALID_IMAGE : 0; }
Result cuModuleUnload(Handle module) { destroyed += module == MODULE; return 0; }
Result cuModuleGetFunction(Handle *function, Handle module, const char *name) { *function = FUNCTION; return strcmp(name, "fold") ? NOT_FOUND : 0; }
Result cuFuncGetAttribute(int *value, int attribute, Handle function) { *value = attribute == 4 ? 40 : -1; return 0; }
// The kernel: its struct of 552 bytes is an address, and what is written there.
Result cuLaunchKernel(
    Handle function, unsigned x, unsigned y, unsigned z, unsigned bx, unsigned by, unsigned bz, unsigned shared, Handle stream,
    void **parameters, void **extra) {
    if (function != FUNCTION || x != 7 || y != 1 || z != 1 || bx != 256 || by != 1 || bz != 1 || shared || stream != STREAM || extra)
        return INVALID_VALUE;
    memcpy(*(void **)parameters[0], (char *)parameters[0] + 8, 544);
    return 0;
}
int count_destroyed(void) { return destroyed; }
