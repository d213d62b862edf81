// Stand-in for CUDA's header of this name, and for what nvcc knows by itself: blend.cu and frame.cu compiled by a host compiler.
// Conversions are written out, because older host compilers lack a float16 type.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

using std::fma;
using std::fmaxf;
using std::fminf;
using std::rintf;
using std::sqrt;

#define __device__
#define __global__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)

struct uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct dim3 { unsigned x, y, z; };
static thread_local dim3 gridDim, blockDim, blockIdx, threadIdx;

// A vector access at an address that a GPU would refuse is an error here too: the launcher reports it.
static thread_local bool misaligned;
template <typename T> inline T __ldcs(const T *at) {
    if (reinterpret_cast<std::uintptr_t>(at) % sizeof(T)) misaligned = true;
    T value;
    std::memcpy(&value, at, sizeof(T));
    return value;
}
template <typename T> inline T __ldg(const T *at) { return __ldcs(at); }

inline float __uint_as_float(unsigned bits) { float value; std::memcpy(&value, &bits, 4); return value; }
inline unsigned __float_as_uint(float value) { unsigned bits; std::memcpy(&bits, &value, 4); return bits; }

inline float __fdiv_rn(float dividend, float divisor) { return dividend / divisor; }
inline unsigned atomicAdd(unsigned *at, unsigned value) { return __atomic_fetch_add(at, value, __ATOMIC_RELAXED); }

struct __half { unsigned short bits; };
struct __half2 { __half low, high; };
inline __half __ushort_as_half(unsigned short bits) { return {bits}; }
inline unsigned short __half_as_ushort(__half value) { return value.bits; }
inline __half __low2half(__half2 both) { return both.low; }
inline __half __high2half(__half2 both) { return both.high; }

inline float __half2float(__half half) {
    const unsigned sign = (half.bits & 0x8000u) << 16, exponent = half.bits >> 10 & 31, fraction = half.bits & 0x3ffu;
    if (exponent == 31) return __uint_as_float(sign | 0x7f800000u | fraction << 13 | (fraction ? 0x400000u : 0));
    if (exponent) return __uint_as_float(sign | (exponent + 112) << 23 | fraction << 13);
    const float small = std::ldexp((float)fraction, -24);
    return sign ? -small : small;
}

// To the nearest, ties to even.
inline __half __float2half_rn(float value) {
    const unsigned bits = __float_as_uint(value), sign = bits >> 16 & 0x8000u, size = bits & 0x7fffffffu;
    if (size > 0x7f800000u) return {0x7fff};
    if (size >= 0x47800000u) return {(unsigned short)(sign | 0x7c00u)};
    if (size < 0x38800000u) {
        // Below the smallest normal number: in units of 2^-24. nearbyint rounds ties to even.
        return {(unsigned short)(sign | (unsigned)std::nearbyint(std::ldexp(__uint_as_float(size), 24)))};
    }
    const unsigned rounded = size + 0xfffu + (size >> 13 & 1);
    return {(unsigned short)(sign | ((rounded - 0x38000000u) >> 13))};
}
inline __half2 __floats2half2_rn(float low, float high) { return {__float2half_rn(low), __float2half_rn(high)}; }
