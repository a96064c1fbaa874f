// Linear layers with 8- or 4-bit weights: out = activation(x @ w.T + bias), multiplied in integers.
//
// Each row of x becomes signed bytes with a scale for every group of inputs; weights are unsigned
// bytes or nibbles around a zero of 128 or 8. Within a group the products are exact; its sums are
// scaled and added up in floats:
//
//   8 bits: y[n] = scale[n] * sum_g x_scale[g] * dot_g          dot_g = sum (w - zero) * x
//   4 bits: y[n] = sum_g x_scale[g] * (scale[g, n] * dot_g + offset[g, n] * sum_g x)
//
// Outputs come in blocks of 2 W. A block's weights are one run of memory: for every 4 inputs (8, of
// which the high nibbles are the second half) 4 bytes for each of its outputs.

#include <omp.h>

#include "rows.h"
#include "scratch.h"
#include "tiles.h"

using namespace kernels;

namespace {

// Filled by atoll_kernels/cpu/linear_grouped.py. scales: of 8 bits (outputs,) float; of 4 bits
// (blocks, groups, {scale, offset}, 2 W) bf16. kind: of activation, -1 for none.
struct GroupedArgs {
    int64_t x, out, weights, scales, bias, rows, in_features, out_features, x_row, group, bits, kind,
        is_bf16, threads;
};

constexpr int kVectors = 2, kBlock = kVectors * W, kTile = 6, kChunk = 16 * kTile;
constexpr int kMostGroup = 128;  // inputs in a group of 4-bit weights
typedef int8_t SignedBytes __attribute__((vector_size(W)));

// Rows of x in integers. stride: of codes, a multiple of the group.
struct Quantized {
    int8_t* codes;
    float* scales;
    int32_t* sums;
    int64_t stride, groups;
};

// Adds four products of unsigned with signed bytes to each sum.
INLINE Ints dot(Ints sum, Words weights, int32_t x) {
#if defined(__AVX512VNNI__)
    return (Ints)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)weights, _mm512_set1_epi32(x));
#else
    for (int i = 0; i < 4; ++i)
        sum += (Ints)(weights >> 8 * i & 255) * splat((int32_t)(int8_t)(x >> 8 * i));
    return sum;
#endif
}

INLINE Floats to_floats(Ints x) { return __builtin_convertvector(x, Floats); }

template <class T>
void quantize(const T* x, const GroupedArgs& a, const Quantized& q, int64_t row) {
    const Floats magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
    for (int64_t g = 0; g < q.groups; ++g) {
        const int64_t start = g * a.group, n = a.in_features - start;
        const int64_t count = n < a.group ? n : a.group;
        int8_t* codes = q.codes + row * q.stride + start;
        Floats top = {}, poison = {};
        for_vectors(count, [&](int64_t i, auto m) {
            Floats v = read(x + start + i, m);
            top = max(top, abs(v));
            poison += v * Floats{};  // NaN if anything is infinite or NaN
        });
        const float most = largest(top), inverse = most > 0 ? 127 / most : 0;
        Ints sum = {};
        for_vectors(count, [&](int64_t i, auto m) {
            Floats shifted = read(x + start + i, m) * splat(inverse) + magic;
            Ints code = (Ints)shifted - (Ints)magic;
            sum += code;
            const SignedBytes bytes = __builtin_convertvector(code, SignedBytes);
            std::memcpy(codes + i, &bytes, m);
        });
        for (int64_t i = count; i < a.group; ++i) codes[i] = 0;
        int32_t total = 0;
        for (int i = 0; i < W; ++i) total += sum[i];
        q.scales[row * q.groups + g] = most / 127 + kernels::sum(poison);
        q.sums[row * q.groups + g] = total;
    }
}

// Rows first .. first + Rows of a block of outputs, before scales of 8 bits and bias.
template <int Bits, int Rows>
INLINE void tile(const GroupedArgs& a, const Quantized& q, int64_t first, const uint8_t* w,
                 const bf16* scales, Floats (&y)[kTile][kVectors]) {
    constexpr int kStep = Bits == 8 ? 4 : 8, kZero = 1 << (Bits - 1);
    const int8_t* x = q.codes + first * q.stride;
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 16
        for (int v = 0; v < kVectors; ++v) y[r][v] = Floats{};
    for (int64_t g = 0; g < q.groups; ++g) {
        Ints sums[Rows][kVectors];
#pragma GCC unroll 16
        for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 16
            for (int v = 0; v < kVectors; ++v)
                sums[r][v] = splat(-kZero * q.sums[(first + r) * q.groups + g]);
        for (int64_t k = 0; k < a.group; k += kStep, x += kStep, w += 4 * kBlock) {
#if defined(__AVX512F__)
            if (Rows == 1) _mm_prefetch((const char*)w + 4096, _MM_HINT_T0);
            if (Rows == 1) _mm_prefetch((const char*)w + 4096 + 64, _MM_HINT_T0);
#endif
            Words packed[kVectors];
#pragma GCC unroll 16
            for (int v = 0; v < kVectors; ++v) packed[v] = load_raw<Words>(w + 4 * W * v);
#pragma GCC unroll 2
            for (int half = 0; half < kStep / 4; ++half) {
                Words wide[kVectors];
#pragma GCC unroll 16
                for (int v = 0; v < kVectors; ++v)
                    wide[v] = Bits == 8 ? packed[v] : packed[v] >> 4 * half & 0x0f0f0f0f;
#pragma GCC unroll 16
                for (int r = 0; r < Rows; ++r) {
                    int32_t four;
                    std::memcpy(&four, x + r * q.stride + 4 * half, 4);
#pragma GCC unroll 16
                    for (int v = 0; v < kVectors; ++v) sums[r][v] = dot(sums[r][v], wide[v], four);
                }
            }
        }
#pragma GCC unroll 16
        for (int v = 0; v < kVectors; ++v) {
            Floats scale = {}, offset = {};
            if (Bits == 4) scale = load(scales + W * v), offset = load(scales + kBlock + W * v);
#pragma GCC unroll 16
            for (int r = 0; r < Rows; ++r) {
                const int64_t at = (first + r) * q.groups + g;
                Floats dots = to_floats(sums[r][v]) * splat(q.scales[at]);
                if (Bits == 8) y[r][v] += dots;
                else y[r][v] += dots * scale + offset * splat(q.scales[at] * (float)q.sums[at]);
            }
        }
        scales += 2 * kBlock;
    }
}

INLINE Floats activated(Floats y, int64_t kind) {
    switch (kind) {  // as numbered in atoll_kernels/cpu/linear_grouped.py
        case 0: return gelu(y);
        case 1: return gelu_tanh(y);
        case 2: return silu(y);
        case 3: return max(Floats{}, y);
        case 4: return splat(2.0f) * sigmoid(splat(2.0f) * y) - splat(1.0f);
        default: return y;
    }
}

// Scales of 8 bits, bias and activation of rows first .. first + rows of a block.
template <class T, int Bits>
INLINE void finish(const GroupedArgs& a, int64_t first, int64_t rows, int64_t block,
                   const Floats (*y)[kVectors]) {
    const int64_t start = block * kBlock;
    for (int v = 0; v < kVectors; ++v) {
        const int64_t at = start + v * W, n = a.out_features - at < W ? a.out_features - at : W;
        if (n <= 0) break;
        const Floats bias = a.bias ? read((const float*)a.bias + at, n) : Floats{};
        const Floats scale = Bits == 8 ? read((const float*)a.scales + at, n) : splat(1.0f);
        for (int64_t r = 0; r < rows; ++r)
            write((T*)a.out + (first + r) * a.out_features + at,
                  activated(y[r][v] * scale + bias, a.kind), n);
    }
}

template <class T, int Bits, int Rows>
void rows_of_block(const GroupedArgs& a, const Quantized& q, int64_t first, int64_t block) {
    const int64_t size = q.stride * kBlock * Bits / 8;
    Floats y[kTile][kVectors];
    tile<Bits, Rows>(a, q, first, (const uint8_t*)a.weights + block * size,
                     Bits == 8 ? nullptr : (const bf16*)a.scales + block * q.groups * 2 * kBlock, y);
    finish<T, Bits>(a, first, Rows, block, y);
}

#if defined(__AMX_TILE__)
constexpr int kLeastTiled = 12;  // rows that are worth the set-up of tile registers

INLINE bool goes_by_tiles(const GroupedArgs& a, int64_t rows) {
    return rows >= kLeastTiled && a.group % 64 == 0 && has_tiles();
}

// 4-bit weights of a group as bytes, for all the rows of a chunk.
INLINE void widen(const uint8_t* w, int64_t group, uint8_t* wide) {
    for (int64_t i = 0; i < group / 8 * kVectors; ++i) {
        const Words packed = load_raw<Words>(w + 4 * W * i);
        const int64_t row = i / kVectors * 2, v = i % kVectors;
        const Words low = packed & 0x0f0f0f0f, high = packed >> 4 & 0x0f0f0f0f;
        std::memcpy(wide + 4 * (row * kBlock + W * v), &low, sizeof low);
        std::memcpy(wide + 4 * ((row + 1) * kBlock + W * v), &high, sizeof high);
    }
}

// Adds the products of a group, in integers, to the sums of some rows.
template <int Bits>
INLINE void add_group(const Quantized& q, int64_t first, int64_t rows, int64_t g,
                      const Ints (*dots)[kVectors], const bf16* scales, Floats (*y)[kVectors]) {
    constexpr int kZero = 1 << (Bits - 1);
    Floats scale[kVectors] = {}, offset[kVectors] = {};
    for (int v = 0; v < kVectors && Bits == 4; ++v)
        scale[v] = load(scales + W * v), offset[v] = load(scales + kBlock + W * v);
    for (int64_t r = 0; r < rows; ++r) {
        const int64_t at = (first + r) * q.groups + g;
        const Ints zero = splat(kZero * q.sums[at]);
        const Floats x_scale = splat(q.scales[at]), x_sum = x_scale * splat((float)q.sums[at]);
        for (int v = 0; v < kVectors; ++v) {
            const Floats dot = to_floats(dots[r][v] - zero) * x_scale;
            y[r][v] += Bits == 8 ? dot : dot * scale[v] + offset[v] * x_sum;
        }
    }
}

// Rows first .. last, at most a chunk, of a block: group by group, so that its weights stay close.
template <class T, int Bits>
void block_by_tiles(const GroupedArgs& a, const Quantized& q, int64_t first, int64_t last,
                    int64_t block) {
    const int64_t bytes = a.group * kBlock * Bits / 8;
    const uint8_t* w = (const uint8_t*)a.weights + block * q.groups * bytes;
    const bf16* scales = Bits == 8 ? nullptr : (const bf16*)a.scales + block * q.groups * 2 * kBlock;
    alignas(64) uint8_t wide[Bits == 4 ? kMostGroup * kBlock : 1];
    Floats y[kChunk][kVectors] = {};
    Ints dots[kMostRows][kVectors];
    Tiles tiles;
    for (int64_t g = 0; g < q.groups; ++g, w += bytes, scales += Bits == 8 ? 0 : 2 * kBlock) {
        if (Bits == 4) widen(w, a.group, wide);
        const auto b = (const uint32_t*)(Bits == 4 ? wide : w);
        for (int64_t r = first; r < last; r += kMostRows) {
            const int64_t rows = last - r < kMostRows ? last - r : kMostRows;
            const auto x = (const uint32_t*)(q.codes + r * q.stride + g * a.group);
            multiply_tiles<TilesBytes>(tiles, rows, x, q.stride / 4, b, W, kBlock, a.group / 4,
                                       dots, kBlock, kVectors, false);
            add_group<Bits>(q, r, rows, g, dots, scales, y + (r - first));
        }
    }
    finish<T, Bits>(a, first, last - first, block, y);
}
#endif

template <class T, int Bits>
void block_of(const GroupedArgs& a, const Quantized& q, int64_t first, int64_t last, int64_t block) {
#if defined(__AMX_TILE__)
    if (goes_by_tiles(a, last - first)) return block_by_tiles<T, Bits>(a, q, first, last, block);
#endif
    for (; first + kTile <= last; first += kTile) rows_of_block<T, Bits, kTile>(a, q, first, block);
    switch (last - first) {
        case 1: return rows_of_block<T, Bits, 1>(a, q, first, block);
        case 2: return rows_of_block<T, Bits, 2>(a, q, first, block);
        case 3: return rows_of_block<T, Bits, 3>(a, q, first, block);
        case 4: return rows_of_block<T, Bits, 4>(a, q, first, block);
        case 5: return rows_of_block<T, Bits, 5>(a, q, first, block);
    }
}

template <class T>
void run(const GroupedArgs& a) {
    Scratch scratch;
    const int64_t groups = (a.in_features + a.group - 1) / a.group, stride = groups * a.group;
    // Few rows are quantised by every thread for itself: waiting for another would take longer.
    const bool is_few = a.rows <= kTile;
    const int64_t copies = is_few ? a.threads : 1;
    const Quantized shared = {scratch.take<int8_t>(copies * a.rows * stride),
                              scratch.take<float>(copies * a.rows * groups),
                              scratch.take<int32_t>(copies * a.rows * groups), stride, groups};
    const int64_t blocks = (a.out_features + kBlock - 1) / kBlock;
    const int64_t chunks = (a.rows + kChunk - 1) / kChunk;
    const bool is_small = a.rows * stride * a.out_features < kSerialElements;
#pragma omp parallel num_threads(a.threads) if (a.threads > 1 && !is_small)
    {
        Quantized q = shared;
        if (is_few) {
            const int64_t skipped = omp_get_thread_num() * a.rows;
            q.codes += skipped * stride, q.scales += skipped * groups, q.sums += skipped * groups;
            for (int64_t r = 0; r < a.rows; ++r) quantize((const T*)a.x + r * a.x_row, a, q, r);
        } else {
#pragma omp for schedule(static)
            for (int64_t r = 0; r < a.rows; ++r) quantize((const T*)a.x + r * a.x_row, a, q, r);
        }
#pragma omp for schedule(static)
        for (int64_t task = 0; task < chunks * blocks; ++task) {
            const int64_t first = task / blocks * kChunk, last = first + kChunk;
            const int64_t end = last < a.rows ? last : a.rows, block = task % blocks;
            a.bits == 8 ? block_of<T, 8>(a, q, first, end, block)
                        : block_of<T, 4>(a, q, first, end, block);
        }
    }
}

}  // namespace

extern "C" __attribute__((visibility("default"))) void atoll_grouped(const GroupedArgs* args) {
    args->is_bf16 ? run<bf16>(*args) : run<float>(*args);
}
