// Frame: frames as they are stored into what a network takes, and what it gives into frames.
//
//   frame_to_input_<pixel>     frame (H, W, 3) -> float32 (3, H', W') in the network's range, padded by mirroring
//   output_to_frame_<pixel>    float32 (3, H', W') -> frame (H, W, 3): cropped, rounded, clamped; counts what is not finite
//
// for pixels of u8, u16 and f32, each with one plain struct as its only argument. dni_deploy/imaging/frames.py is the reference: the
// same operations in the same order, each rounded once. Compile with -fmad=false (kernels.py), so that nothing is fused.
//
// Bytes moved, p bytes for each of the pixel's three values: (p + 4) * 3 per pixel. Memory's bandwidth is the limit:
//
//                                   bytes      at 4.8 TB/s    at 1 TB/s
//   1920 x 1080, u8 -> input         31 MB          6 us         31 us
//   output -> 3840 x 2160, u8       124 MB         26 us        124 us
//
// A block takes one row at a time, so that no thread divides to know its pixel, and neighboring threads take neighboring pixels: the
// float32 side is contiguous across a warp, and on the other side the three accesses of a warp share its 32 pixels' lines, which the
// L1 and L2 hold meanwhile. None of this was measured.

typedef unsigned long long u64;

// As frame_kernels.FRAME_TO_INPUT.
struct FrameToInput {
    u64 frame;                           // (height, width, 3)
    u64 input;                           // float32 (3, padded_height, padded_width), written
    unsigned height, width;
    unsigned padded_height, padded_width;
    float white, span, low;              // input = frame / white, or frame / white * span + low
    unsigned rescale;                    // whether the latter
};

// As frame_kernels.OUTPUT_TO_FRAME.
struct OutputToFrame {
    u64 output;                          // float32 (3, output_height, output_width)
    u64 source;                          // residual only: the frame (height, width, 3) that the output is subtracted from
    u64 frame;                           // (height, width, 3), written
    u64 not_finite;                      // unsigned, to which the number of values that are NaN or infinite is added
    unsigned height, width;              // of the frame, at most those of the output
    unsigned output_height, output_width;
    float low, factor, white;            // frame = (output - low) * factor, or output * factor + source
    unsigned residual;                   // whether the latter
};

// The row or column of a side of `size` pixels that stands at `index` of the padded side.
__device__ __forceinline__ unsigned mirror(unsigned index, unsigned size, unsigned padded) {
    if (index < size) return index;
    return padded - size < size ? 2 * size - 2 - index : size - 1;
}

__device__ __forceinline__ unsigned is_not_finite(float value) { return (__float_as_uint(value) & 0x7f800000u) == 0x7f800000u; }

// rintf rounds half to even.
template <typename Pixel> __device__ __forceinline__ void store_pixel(float value, float white, Pixel &to) {
    to = (Pixel)fminf(fmaxf(rintf(value), 0.0f), white);
}
__device__ __forceinline__ void store_pixel(float value, float, float &to) { to = value; }

template <typename Pixel> __device__ __forceinline__ void convert(const FrameToInput &p) {
    const u64 plane = (u64)p.padded_height * p.padded_width;
    for (unsigned row = blockIdx.x; row < p.padded_height; row += gridDim.x) {
        const Pixel *from = reinterpret_cast<const Pixel *>(p.frame) + (u64)mirror(row, p.height, p.padded_height) * p.width * 3;
        float *to = reinterpret_cast<float *>(p.input) + (u64)row * p.padded_width;
        for (unsigned column = threadIdx.x; column < p.padded_width; column += blockDim.x) {
            const Pixel *pixel = from + (u64)mirror(column, p.width, p.padded_width) * 3;
#pragma unroll
            for (int color = 0; color < 3; ++color) {
                float value = __fdiv_rn((float)pixel[color], p.white);
                if (p.rescale) value = value * p.span + p.low;
                to[color * plane + column] = value;
            }
        }
    }
}

template <typename Pixel> __device__ __forceinline__ void convert(const OutputToFrame &p) {
    const u64 plane = (u64)p.output_height * p.output_width;
    unsigned not_finite = 0;
    for (unsigned row = blockIdx.x; row < p.height; row += gridDim.x) {
        const float *from = reinterpret_cast<const float *>(p.output) + (u64)row * p.output_width;
        const Pixel *source = reinterpret_cast<const Pixel *>(p.source) + (u64)row * p.width * 3;
        Pixel *to = reinterpret_cast<Pixel *>(p.frame) + (u64)row * p.width * 3;
        for (unsigned column = threadIdx.x; column < p.width; column += blockDim.x) {
            const u64 pixel = (u64)column * 3;
#pragma unroll
            for (int color = 0; color < 3; ++color) {
                float value = from[color * plane + column];
                not_finite += is_not_finite(value);
                value = p.residual ? value * p.factor + (float)source[pixel + color] : (value - p.low) * p.factor;
                store_pixel(value, p.white, to[pixel + color]);
            }
        }
    }
    if (not_finite) atomicAdd(reinterpret_cast<unsigned *>(p.not_finite), not_finite);
}

#define FOR_FRAME_KERNELS(DO) \
    DO(frame_to_input_u8, FrameToInput, unsigned char) DO(frame_to_input_u16, FrameToInput, unsigned short) \
    DO(frame_to_input_f32, FrameToInput, float) \
    DO(output_to_frame_u8, OutputToFrame, unsigned char) DO(output_to_frame_u16, OutputToFrame, unsigned short) \
    DO(output_to_frame_f32, OutputToFrame, float)

#define DEFINE_FRAME_KERNEL(name, P, Pixel) \
    extern "C" __global__ void __launch_bounds__(256, 4) name(const P p) { convert<Pixel>(p); }
FOR_FRAME_KERNELS(DEFINE_FRAME_KERNEL)
