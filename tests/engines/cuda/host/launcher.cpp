// Launcher: runs a kernel of blend.cu or frame.cu on the host, one block and one thread after the other.
#include "blend.cu"

#include "frame.cu"

namespace {
template <typename Arguments, typename Kernel>
int run(Kernel kernel, unsigned grid, unsigned block, const void *args) {
    Arguments arguments;
    std::memcpy(&arguments, args, sizeof(arguments));
    gridDim = {grid, 1, 1};
    blockDim = {block, 1, 1};
    misaligned = false;
    for (unsigned b = 0; b < grid; ++b)
        for (unsigned t = 0; t < block; ++t) {
            blockIdx = {b, 0, 0};
            threadIdx = {t, 0, 0};
            kernel(arguments);
        }
    return misaligned ? 716 : 0;  // CUDA_ERROR_MISALIGNED_ADDRESS
}
}  // namespace

extern "C" {
// 0, or a CUDA error's number: 500 for an unknown name. `args` holds the kernel's one struct.
int host_launch(const char *kernel, unsigned grid, unsigned block, const void *args) {
#define LAUNCH(name, P, M, O, N, SCALED) \
    if (!std::strcmp(kernel, #name)) return run<P>(name, grid, block, args);
    FOR_KERNELS(LAUNCH)
    if (!std::strcmp(kernel, "fold")) return run<Fold>(fold, grid, block, args);
    if (!std::strcmp(kernel, "fold_by_row")) return run<FoldByRow>(fold_by_row, grid, block, args);
#define LAUNCH_FRAME(name, P, Pixel) \
    if (!std::strcmp(kernel, #name)) return run<P>(name, grid, block, args);
    FOR_FRAME_KERNELS(LAUNCH_FRAME)
    return 500;  // CUDA_ERROR_NOT_FOUND
}

// The names of a source's kernels with a space behind each.
const char *host_kernels(const char *source) {
#define NAME(name, P, M, O, N, SCALED) #name " "
#define FRAME_NAME(name, P, Pixel) #name " "
    return std::strcmp(source, "frame.cu") ? FOR_KERNELS(NAME) "fold fold_by_row " : FOR_FRAME_KERNELS(FRAME_NAME) "";
}

// How many bytes a kernel's struct takes, 0 for an unknown name.
unsigned long host_argument_bytes(const char *kernel) {
#define SIZE(name, P, M, O, N, SCALED) \
    if (!std::strcmp(kernel, #name)) return sizeof(P);
    FOR_KERNELS(SIZE)
    if (!std::strcmp(kernel, "fold_by_row")) return sizeof(FoldByRow);
#define FRAME_SIZE(name, P, Pixel) \
    if (!std::strcmp(kernel, #name)) return sizeof(P);
    FOR_FRAME_KERNELS(FRAME_SIZE)
    return std::strcmp(kernel, "fold") ? 0 : sizeof(Fold);
}

// How many numbers one block of `block` threads takes at once, 0 for an unknown name.
unsigned long host_tile(const char *kernel, unsigned block) {
#define TILE(name, P, M, O, N, SCALED) \
    if (!std::strcmp(kernel, #name)) return (unsigned long)block * Shape<M, O, N, SCALED>::packs * Shape<M, O, N, SCALED>::width;
    FOR_KERNELS(TILE)
    return std::strncmp(kernel, "fold", 4) ? 0 : block;
}
}
