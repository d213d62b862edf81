// Blend: the weights of a family, blended in device memory; BatchNorms are folded after their statistics were blended.
//
// Three kinds of kernel, each with one plain struct as its only argument:
//
//   blend_<member>_<output>_<N>    output[i] = sum over the members k of share[k] * member[k][i]
//   fold                           blended statistics of every BatchNorm -> scale and shift of each channel
//   scaled_<member>_<output>_<N>   the same blend for the rows of convolutions, each times its channel's scale
//
// and each of them again `by_row`, where every weight has shares of its own: share[row of i][k].
//
// Bytes moved by a blend of N members of P parameters, m bytes each in the members and o in the output: (N * m + o) * P. Nothing
// is read or written twice, so the memory's bandwidth is the limit:
//
//                                            bytes      at 4.8 TB/s    at 1 TB/s
//   RRDBNet-23, 16.7 M, N = 2, f16 -> f16    100 MB         21 us       100 us
//   RRDBNet-23, 16.7 M, N = 2, f32 -> f32    200 MB         42 us       200 us
//   P = 100 M, N = 4, f16 -> f16             1.0 GB        208 us         1 ms
//   P = 100 M, N = 4, f32 -> f32             2.0 GB        417 us         2 ms
//
// A launch takes 2 to 4 us by itself, so below about 10 MB it is the launch that is seen. `scaled` reads 16 bytes of table for
// every 128 numbers besides, and `fold` moves (N * 40 + 16) bytes per channel, some kilobytes in all.
//
// By row, 128 numbers read 4 bytes more, the number of their row, and the row itself, which lies in a cache: a weight's lines all read
// the same 4 N bytes, and the rows of 700 weights, N = 2, are 6 KB. That is 4 in 768 bytes (N = 2, f16 -> f16), 0.5 %, or 0.3 % of
// f32; `fold` reads 20 bytes per channel more, and the rows are copied to the device before, some kilobytes. What it costs
// besides is time to answer: a thread must know its shares before it asks for its numbers, since a member whose share is 0 is
// not read for those numbers. If tables come from memory and rows from the L2, that is 0.8 + 0.3 us beside the 0.8 us of the
// numbers, and of 64 to 128 KB per multiprocessor 27 to 54 are in flight on the average, where an H200 needs about 30:
// so a change by row should take at most 1.1 times a plain one where memory is the limit. None of this was measured.
//
// How the bandwidth is reached: accesses of 16 bytes (8 on the float16 side where the other side is float32, so that both sides
// stay contiguous across a warp); 64 to 128 bytes of independent loads per thread before the first of them is used; 64
// registers at most, so that 1,024 threads are resident: 64 to 128 KB in flight per multiprocessor, where an H200 needs
// about 40. Members are read once per change of alpha, so they are marked to leave the L2 first (__ldcs); outputs are
// written plainly, because the network or the refit reads them next.
//
// The arithmetic is explicit fused multiply-adds in float32, in the order of the members, from -0.0 (which adds nothing, not
// even to a -0.0), so the host's compiler and the device's give the same bits. Compile with -fmad=false (kernels.py), so that
// nothing else is fused. No shared memory and no barriers: the tests run this very file on a CPU (tests/engines/cuda/host).

#include <cuda_fp16.h>

#define MAX_MEMBERS 32  // as in kernels.py
#define LINE 128u       // numbers per entry of the table of lines; every weight begins on such a line (layout.py)

typedef unsigned long long u64;

// As kernels.BLEND. Addresses are of device memory; members beyond `members` are not looked at.
struct Blend {
    u64 out;                   // count numbers
    u64 lines;                 // scaled only: per LINE of the output {first, inner, channels, local}, uint4
    u64 scale;                 // scaled only: float32, channel c of that line's weight is scale[first + c]
    u64 count;                 // numbers in each member and in the output
    u64 member[MAX_MEMBERS];   // count numbers each
    float share[MAX_MEMBERS];
    unsigned members;
    unsigned padding;
};

// As kernels.FOLD. Channels of all BatchNorms are side by side.
struct Fold {
    u64 live;                  // the arena that holds the biases
    u64 places;                // per channel, u64: byte offset of its bias in the arena * 2 + 1 where it is float16
    u64 scale;                 // float32 (count,), written
    u64 count;
    u64 member[MAX_MEMBERS];   // float64 (5, count): variance + epsilon, gamma, beta, mean, bias of the convolution
    double share[MAX_MEMBERS];
    unsigned members;
    unsigned padding;
};

// As kernels.BY_ROW: the same with shares by row. A row's member whose share is 0 is not read for the weights of that row.
struct BlendByRow {
    u64 out;
    u64 lines;
    u64 scale;
    u64 count;
    u64 rows;                  // per LINE of the output, unsigned: its row of shares
    u64 shares;                // float32 (rows, members)
    u64 member[MAX_MEMBERS];
    unsigned members;
    unsigned padding;
};

struct FoldByRow {
    u64 live;
    u64 places;
    u64 scale;
    u64 count;
    u64 rows;                  // unsigned (5, count): the row of each statistic
    u64 shares;                // float64 (rows, members)
    u64 member[MAX_MEMBERS];
    unsigned members;
    unsigned padding;
};

template <typename A, typename B> struct Same { static const bool value = false; };
template <typename A> struct Same<A, A> { static const bool value = true; };

// 8 or 16 bytes at once.
template <int BYTES> struct Word;
template <> struct Word<8> { typedef uint2 type; };
template <> struct Word<16> { typedef uint4 type; };

__device__ __forceinline__ unsigned &part(uint2 &word, int i) { return i == 0 ? word.x : word.y; }
__device__ __forceinline__ unsigned &part(uint4 &word, int i) {
    return i == 0 ? word.x : i == 1 ? word.y : i == 2 ? word.z : word.w;
}

__device__ __forceinline__ float widened(float value) { return value; }
__device__ __forceinline__ float widened(__half value) { return __half2float(value); }
__device__ __forceinline__ void narrowed(float value, float &to) { to = value; }
__device__ __forceinline__ void narrowed(float value, __half &to) { to = __float2half_rn(value); }

// The numbers in 4 bytes: one float32 or two float16, the first in the low half.
__device__ __forceinline__ void spread(unsigned bits, float *to, float) { to[0] = __uint_as_float(bits); }
__device__ __forceinline__ void spread(unsigned bits, float *to, __half) {
    to[0] = __half2float(__ushort_as_half((unsigned short)(bits & 0xffffu)));
    to[1] = __half2float(__ushort_as_half((unsigned short)(bits >> 16)));
}
__device__ __forceinline__ unsigned packed(const float *from, float) { return __float_as_uint(from[0]); }
__device__ __forceinline__ unsigned packed(const float *from, __half) {
    const __half2 both = __floats2half2_rn(from[0], from[1]);
    return (unsigned)__half_as_ushort(__low2half(both)) | (unsigned)__half_as_ushort(__high2half(both)) << 16;
}

// What a pack of numbers is for a pair of types, and how many packs a thread takes at once.
template <typename M, typename O, int N, bool SCALED> struct Shape {
    static const int width = 16 / (sizeof(M) > sizeof(O) ? sizeof(M) : sizeof(O));  // numbers in a pack
    // As kernels.tile: so many bytes of each member per thread. Less where the registers also hold scales or more members.
    static const int packs = ((N == 1 || N == 2) && !SCALED ? 64 : 32) / (width * (int)sizeof(M));
    typedef typename Word<width * (int)sizeof(M)>::type In;
    typedef typename Word<width * (int)sizeof(O)>::type Out;
};

template <typename P> __device__ __forceinline__ uint4 line_of(const P &p, u64 element) {
    return reinterpret_cast<const uint4 *>(p.lines)[element / LINE];
}

// The shares of U packs: those of the argument, or of the rows in which their numbers lie, by where those begin.
template <typename P, int U> struct Shares;
template <int U> struct Shares<Blend, U> {
    static const bool BY_ROW = false;
    const Blend &p;
    __device__ __forceinline__ Shares(const Blend &p, u64, u64) : p(p) {}
    __device__ __forceinline__ float of(int, unsigned k) const { return p.share[k]; }
};
template <int U> struct Shares<BlendByRow, U> {
    static const bool BY_ROW = true;
    const float *shares;
    unsigned begin[U];
    __device__ __forceinline__ Shares(const BlendByRow &p, u64 element, u64 apart) : shares(reinterpret_cast<const float *>(p.shares)) {
#pragma unroll
        for (int u = 0; u < U; ++u) begin[u] = __ldg(reinterpret_cast<const unsigned *>(p.rows) + (element + u * apart) / LINE) * p.members;
    }
    __device__ __forceinline__ float of(int u, unsigned k) const { return __ldg(shares + begin[u] + k); }
};

// Read in place of a member whose share is 0 in a row: -0.0, which times 0 and added changes nothing, not even a -0.0. So its numbers
// are neither moved nor multiplied (they may be NaN), and the loads need no branch: predicates are 7, and with one for each load
// the compiler waits for the first loads before it asks for the last. One line for all threads, which a cache holds.
template <typename M> struct Nothing { static const unsigned bits = sizeof(M) == 2 ? 0x80008000u : 0x80000000u; };
__device__ const uint4 nothing_f32 = {0x80000000u, 0x80000000u, 0x80000000u, 0x80000000u};
__device__ const uint4 nothing_f16 = {0x80008000u, 0x80008000u, 0x80008000u, 0x80008000u};

// By row, whether a pack has the bits of one member: it is the only one with a share, which is 1, and the types are the same.
// The bits are the exclusive or of what was read; what was read in place of the others is taken out again.
template <typename S, typename M, bool POSSIBLE, int U> struct Copied {
    typename S::In bits[U];
    unsigned used[U];
    bool whole[U];
    __device__ __forceinline__ Copied() {
#pragma unroll
        for (int u = 0; u < U; ++u) bits[u] = typename S::In(), used[u] = 0, whole[u] = false;
    }
    __device__ __forceinline__ void add(int u, float share, typename S::In word) {
#pragma unroll
        for (int i = 0; i < (int)sizeof(word) / 4; ++i) part(bits[u], i) ^= part(word, i);
        used[u] += share != 0.0f;
        whole[u] |= share == 1.0f;
    }
    __device__ __forceinline__ void give(int u, unsigned members, typename S::In &word) {
        if (used[u] != 1 || !whole[u]) return;
#pragma unroll
        for (int i = 0; i < (int)sizeof(word) / 4; ++i) part(word, i) = part(bits[u], i) ^ (members & 1 ? 0 : Nothing<M>::bits);
    }
};
template <typename S, typename M, int U> struct Copied<S, M, false, U> {
    __device__ __forceinline__ void add(int, float, typename S::In) {}
    template <typename Out> __device__ __forceinline__ void give(int, unsigned, Out &) {}
};

// Multiply W neighbors, the first of which is `element`, by their channels' scales. channel = (place in its weight / inner) % channels
template <int W, typename P> __device__ __forceinline__ void scale(const P &p, uint4 line, u64 element, float *values) {
    const float *scales = reinterpret_cast<const float *>(p.scale) + line.x;
    const unsigned inner = line.y, channels = line.z, local = line.w + (unsigned)(element % LINE);
    const unsigned row = local / inner;
    unsigned within = local - row * inner, channel = row % channels;
    if (within + W <= inner) {
        const float one = scales[channel];
#pragma unroll
        for (int i = 0; i < W; ++i) values[i] *= one;
        return;
    }
#pragma unroll
    for (int i = 0; i < W; ++i) {
        values[i] *= scales[channel];
        if (++within == inner) {
            within = 0;
            channel = channel + 1 == channels ? 0 : channel + 1;
        }
    }
}

// Add GROUP members, from number k on, to the sums of U packs that lie blockDim.x apart: all loads first, then the arithmetic.
template <typename S, typename M, int GROUP, int U, typename P, typename C>
__device__ __forceinline__ void add(const P &p, const Shares<P, U> &shares, unsigned k, u64 pack, float (&sums)[U][S::width], C &copied) {
    const bool BY_ROW = Shares<P, U>::BY_ROW;
    typename S::In words[GROUP][U];
    float row[GROUP][U];
    if (BY_ROW) {
#pragma unroll
        for (int g = 0; g < GROUP; ++g)
#pragma unroll
            for (int u = 0; u < U; ++u) row[g][u] = shares.of(u, k + g);
    }
#pragma unroll
    for (int g = 0; g < GROUP; ++g)
#pragma unroll
        for (int u = 0; u < U; ++u) {
            const typename S::In *at = reinterpret_cast<const typename S::In *>(p.member[k + g]) + pack + u * blockDim.x;
            if (BY_ROW && row[g][u] == 0.0f)
                at = reinterpret_cast<const typename S::In *>(sizeof(M) == 2 ? &nothing_f16 : &nothing_f32);
            words[g][u] = __ldcs(at);
        }
#pragma unroll
    for (int u = 0; u < U; ++u)
#pragma unroll
        for (int g = 0; g < GROUP; ++g) {
            const float share = BY_ROW ? row[g][u] : shares.of(u, k + g);
            float values[S::width];
            const int per = 4 / sizeof(M);
#pragma unroll
            for (int i = 0; i < S::width / per; ++i) spread(part(words[g][u], i), values + i * per, M());
#pragma unroll
            for (int i = 0; i < S::width; ++i) sums[u][i] = fmaf(share, values[i], sums[u][i]);
            copied.add(u, share, words[g][u]);
        }
}

// U packs of the output that lie blockDim.x apart. N is the number of members, 0 where it is only known now.
template <typename M, typename O, int N, bool SCALED, int U, typename P>
__device__ __forceinline__ void packs(const P &p, u64 pack) {
    typedef Shape<M, O, N, SCALED> S;
    const int W = S::width;
    const Shares<P, U> shares(p, pack * W, (u64)blockDim.x * W);
    Copied<S, M, Shares<P, U>::BY_ROW && Same<M, O>::value && !SCALED, U> copied;
    uint4 lines[U];
    if (SCALED) {
#pragma unroll
        for (int u = 0; u < U; ++u) lines[u] = line_of(p, (pack + u * blockDim.x) * W);
    }
    float sums[U][W];
#pragma unroll
    for (int u = 0; u < U; ++u)
#pragma unroll
        for (int i = 0; i < W; ++i) sums[u][i] = -0.0f;
    if (N > 0) {
        add<S, M, (N > 0 ? N : 1), U>(p, shares, 0, pack, sums, copied);
    } else {
        const unsigned G = Shares<P, U>::BY_ROW ? 2 : 4;  // shares by row and bits for a copy take registers
        unsigned k = 0;
        for (; k + G <= p.members; k += G) add<S, M, G, U>(p, shares, k, pack, sums, copied);
        for (; k < p.members; ++k) add<S, M, 1, U>(p, shares, k, pack, sums, copied);
    }
#pragma unroll
    for (int u = 0; u < U; ++u) {
        const u64 at = pack + u * blockDim.x;
        if (SCALED) scale<W>(p, lines[u], at * W, sums[u]);
        typename S::Out word;
        const int per = 4 / sizeof(O);
#pragma unroll
        for (int i = 0; i < W / per; ++i) part(word, i) = packed(sums[u] + i * per, O());
        copied.give(u, N > 0 ? N : p.members, word);
        reinterpret_cast<typename S::Out *>(p.out)[at] = word;
    }
}

// The same bits, NaNs and all: one member whose share is 1, in the output's own type.
template <typename M, typename O, int U, typename P> __device__ __forceinline__ void copies(const P &p, u64 pack) {
    typedef typename Shape<M, O, 1, false>::In In;
    In words[U];
#pragma unroll
    for (int u = 0; u < U; ++u) words[u] = __ldcs(reinterpret_cast<const In *>(p.member[0]) + pack + u * blockDim.x);
#pragma unroll
    for (int u = 0; u < U; ++u) reinterpret_cast<In *>(p.out)[pack + u * blockDim.x] = words[u];
}

template <typename M, typename O, bool SCALED> __device__ __forceinline__ void one(const Blend &p, u64 element, bool copy) {
    if (copy) {
        // As whole numbers, which keep their bits wherever they go.
        if (sizeof(M) == 2) reinterpret_cast<unsigned short *>(p.out)[element] = reinterpret_cast<const unsigned short *>(p.member[0])[element];
        else reinterpret_cast<unsigned *>(p.out)[element] = reinterpret_cast<const unsigned *>(p.member[0])[element];
        return;
    }
    float sum = -0.0f;
    for (unsigned k = 0; k < p.members; ++k) sum = fmaf(p.share[k], widened(reinterpret_cast<const M *>(p.member[k])[element]), sum);
    if (SCALED) scale<1>(p, line_of(p, element), element, &sum);
    narrowed(sum, reinterpret_cast<O *>(p.out)[element]);
}

template <typename M, typename O, bool SCALED> __device__ __forceinline__ void one(const BlendByRow &p, u64 element, bool) {
    const Shares<BlendByRow, 1> shares(p, element, 0);
    float sum = -0.0f;
    unsigned used = 0, last = 0;
    for (unsigned k = 0; k < p.members; ++k) {
        const float share = shares.of(0, k);
        if (share == 0.0f) continue;
        sum = fmaf(share, widened(reinterpret_cast<const M *>(p.member[k])[element]), sum);
        ++used;
        last = k;
    }
    if (!SCALED && Same<M, O>::value && used == 1 && shares.of(0, last) == 1.0f) {
        if (sizeof(M) == 2) reinterpret_cast<unsigned short *>(p.out)[element] = reinterpret_cast<const unsigned short *>(p.member[last])[element];
        else reinterpret_cast<unsigned *>(p.out)[element] = reinterpret_cast<const unsigned *>(p.member[last])[element];
        return;
    }
    if (SCALED) scale<1>(p, line_of(p, element), element, &sum);
    narrowed(sum, reinterpret_cast<O *>(p.out)[element]);
}

__device__ __forceinline__ bool whole(const Blend &p) { return p.share[0] == 1.0f; }
__device__ __forceinline__ bool whole(const BlendByRow &) { return false; }  // each pack decides for itself

template <typename M, typename O, int N, bool SCALED, typename P> __device__ __forceinline__ void blend(const P &p) {
    typedef Shape<M, O, N, SCALED> S;
    const int U = S::packs;
    const bool copy = N == 1 && !SCALED && Same<M, O>::value && whole(p);
    u64 addresses = p.out;
    if (N > 0) {
#pragma unroll
        for (int k = 0; k < N; ++k) addresses |= p.member[k];
    } else {
        for (unsigned k = 0; k < p.members; ++k) addresses |= p.member[k];
    }
    // Our arenas are always aligned; anything else is still right, one number at a time.
    const u64 whole = addresses % 16 == 0 ? p.count / S::width : 0;
    const u64 tile = (u64)blockDim.x * U;
    for (u64 first = blockIdx.x * tile; first < whole; first += gridDim.x * tile) {
        u64 pack = first + threadIdx.x;
        if (copy) {
            if (first + tile <= whole) copies<M, O, U>(p, pack);
            else for (; pack < whole; pack += blockDim.x) copies<M, O, 1>(p, pack);
        } else if (first + tile <= whole) {
            packs<M, O, N, SCALED, U>(p, pack);
        } else {
            for (; pack < whole; pack += blockDim.x) packs<M, O, N, SCALED, 1>(p, pack);
        }
    }
    const u64 threads = (u64)gridDim.x * blockDim.x;
    for (u64 element = whole * S::width + (u64)blockIdx.x * blockDim.x + threadIdx.x; element < p.count; element += threads)
        one<M, O, SCALED>(p, element, copy);
}

// The kernels' names: _1 to _4 for so many members, _n for any number.
#define FOR_MORE(DO, name, P, M, O, SCALED) \
    DO(name##_2, P, M, O, 2, SCALED) DO(name##_3, P, M, O, 3, SCALED) DO(name##_4, P, M, O, 4, SCALED) DO(name##_n, P, M, O, 0, SCALED)
#define FOR_COUNTS(DO, name, M, O, SCALED) \
    DO(name##_1, Blend, M, O, 1, SCALED) FOR_MORE(DO, name, Blend, M, O, SCALED)
#define FOR_KERNELS(DO) \
    FOR_COUNTS(DO, blend_f32_f32, float, float, false) FOR_COUNTS(DO, blend_f32_f16, float, __half, false) \
    FOR_COUNTS(DO, blend_f16_f32, __half, float, false) FOR_COUNTS(DO, blend_f16_f16, __half, __half, false) \
    FOR_COUNTS(DO, scaled_f32_f32, float, float, true) FOR_COUNTS(DO, scaled_f32_f16, float, __half, true) \
    FOR_COUNTS(DO, scaled_f16_f32, __half, float, true) FOR_COUNTS(DO, scaled_f16_f16, __half, __half, true) \
    FOR_MORE(DO, blend_by_row_f32_f32, BlendByRow, float, float, false) FOR_MORE(DO, blend_by_row_f32_f16, BlendByRow, float, __half, false) \
    FOR_MORE(DO, blend_by_row_f16_f32, BlendByRow, __half, float, false) FOR_MORE(DO, blend_by_row_f16_f16, BlendByRow, __half, __half, false) \
    FOR_MORE(DO, scaled_by_row_f32_f32, BlendByRow, float, float, true) FOR_MORE(DO, scaled_by_row_f32_f16, BlendByRow, float, __half, true) \
    FOR_MORE(DO, scaled_by_row_f16_f32, BlendByRow, __half, float, true) FOR_MORE(DO, scaled_by_row_f16_f16, BlendByRow, __half, __half, true)

#define DEFINE(name, P, M, O, N, SCALED) \
    extern "C" __global__ void __launch_bounds__(256, 4) name(const P p) { blend<M, O, N, SCALED>(p); }
FOR_KERNELS(DEFINE)

// A channel's blended statistics -> its scale and shift. scale = gamma / sqrt(variance + epsilon), shift = beta + scale * (bias - mean),
// as recipes.scale_and_shift, in float64 as there: so a channel's scale is the same bits as in a fresh build, and at some thousand
// channels even a GPU with few float64 units takes a microsecond. The shift goes straight to the bias that it is.
template <typename P> __device__ __forceinline__ void folded(const P &p, u64 channel, const double (&sums)[5]) {
    const double scale = sums[1] / sqrt(sums[0]);
    const float shift = (float)(sums[2] + scale * (sums[4] - sums[3]));
    reinterpret_cast<float *>(p.scale)[channel] = (float)scale;
    const u64 place = reinterpret_cast<const u64 *>(p.places)[channel];
    if (place & 1) narrowed(shift, *reinterpret_cast<__half *>(p.live + (place >> 1)));
    else narrowed(shift, *reinterpret_cast<float *>(p.live + (place >> 1)));
}

extern "C" __global__ void __launch_bounds__(256) fold(const Fold p) {
    const u64 threads = (u64)gridDim.x * blockDim.x;
    for (u64 channel = (u64)blockIdx.x * blockDim.x + threadIdx.x; channel < p.count; channel += threads) {
        double sums[5] = {-0.0, -0.0, -0.0, -0.0, -0.0};
        for (unsigned k = 0; k < p.members; ++k) {
            const double *statistics = reinterpret_cast<const double *>(p.member[k]) + channel;
#pragma unroll
            for (int i = 0; i < 5; ++i) sums[i] = fma(p.share[k], statistics[i * p.count], sums[i]);
        }
        folded(p, channel, sums);
    }
}

extern "C" __global__ void __launch_bounds__(256) fold_by_row(const FoldByRow p) {
    const u64 threads = (u64)gridDim.x * blockDim.x;
    for (u64 channel = (u64)blockIdx.x * blockDim.x + threadIdx.x; channel < p.count; channel += threads) {
        const double *shares[5];
#pragma unroll
        for (int i = 0; i < 5; ++i)
            shares[i] = reinterpret_cast<const double *>(p.shares) +
                        (u64)__ldg(reinterpret_cast<const unsigned *>(p.rows) + i * p.count + channel) * p.members;
        double sums[5] = {-0.0, -0.0, -0.0, -0.0, -0.0};
        for (unsigned k = 0; k < p.members; ++k) {
            const double *statistics = reinterpret_cast<const double *>(p.member[k]) + channel;
#pragma unroll
            for (int i = 0; i < 5; ++i) {
                const double share = __ldg(shares[i] + k);
                if (share != 0.0) sums[i] = fma(share, statistics[i * p.count], sums[i]);
            }
        }
        folded(p, channel, sums);
    }
}
