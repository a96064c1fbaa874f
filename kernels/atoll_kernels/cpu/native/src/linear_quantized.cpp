// Linear layers with 8- or 4-bit weights: out = activation(x @ w.T + bias), multiplied in integers.
//
// Each row of x is quantized to signed bytes with a scale for every group of inputs; weights are
// unsigned bytes or nibbles with a zero point of 128 or 8. Sums within a group are exact integers;
// they are scaled and added up in float:
//
//   8 bits: y[n] = scale[n] * sum_g x_scale[g] * dot_g          dot_g = sum (w - zero) * x
//   4 bits: y[n] = sum_g x_scale[g] * (scale[g, n] * dot_g + offset[g, n] * sum_g x)
//
// The contribution of the zero points is the same for all outputs of a row, so it is added once, in
// float, and weights are multiplied as they are stored.
//
// On CPUs with AMX, 8-bit weights are multiplied with tiles, and 4-bit ones by linear_int4_amx.h.

#include <algorithm>

#include "linear_quantized.h"
#include "scratch.h"
#include "gemm_amx.h"
#include "linear_int4_amx.h"

using namespace kernels;

namespace {

constexpr int64_t kChunk = 96;  // rows that are multiplied by a block of weights before the next one
// Rows that are multiplied together. With 8 bits, groups are so long that sums may be spilled.
template <int Bits>
constexpr int64_t kMostTogether = Bits == 8 ? 8 : 6;
// Pieces of work for each thread, so that others can take over from one that is descheduled.
constexpr int64_t kShares = 8;
constexpr int64_t kAhead = 4096;  // prefetch distance in bytes of weights

// Quantized rows of x. codes: (rows, stride), padded to a multiple of the group. scales, sums of x:
// (rows, groups). zeros (rows,): what the zero point of 8-bit weights adds to the products.
struct Quantized {
    int8_t* codes;
    float *scales, *sums, *zeros;
    int64_t stride, groups;
};

// Adds four products of unsigned and signed bytes to each sum.
INLINE Ints dot(Ints sum, Words weights, int32_t x) {
#if defined(__AVX512VNNI__)
    return (Ints)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)weights, _mm512_set1_epi32(x));
#else
    for (int i = 0; i < 4; ++i)
        sum += (Ints)(weights >> 8 * i & 255) * splat((int32_t)(int8_t)(x >> 8 * i));
    return sum;
#endif
}

template <class T>
void quantize(const T* x, const QuantizedArgs& a, const Quantized& q, int64_t row) {
    const Floats magic = splat(kRounder);
    float all = 0;
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
            const SignedBytes bytes = to_bytes(code);
            std::memcpy(codes + i, &bytes, m);
        });
        for (int64_t i = count; i < a.group; ++i) codes[i] = 0;
        const int64_t at = row * q.groups + g;
        q.scales[at] = most / 127 + kernels::sum(poison);
        q.sums[at] = q.scales[at] * (float)kernels::sum(sum);
        all += q.sums[at];
    }
    q.zeros[row] = -128.0f * all;
}

// Sums of rows first .. first + Rows of a block of outputs, before the epilogue. ahead: the prefetch
// distance in bytes.
template <int Bits, int Rows>
INLINE void tile(const QuantizedArgs& a, const Quantized& q, int64_t first, const uint8_t* w,
                 int64_t ahead, const GroupScales& scales, Floats (&y)[Rows][kVectors]) {
    constexpr int kStep = Bits == 8 ? 4 : 8;
    const int8_t* x = q.codes + first * q.stride;
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 16
        for (int v = 0; v < kVectors; ++v)
            y[r][v] = Bits == 8 ? splat(q.zeros[first + r]) : Floats{};
    for (int64_t g = 0; g < q.groups; ++g) {
        const int64_t at = first * q.groups + g;
        Ints sums[Rows][kVectors];
#pragma GCC unroll 16
        for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 16
            for (int v = 0; v < kVectors; ++v) sums[r][v] = Ints{};
        for (int64_t k = 0; k < a.group; k += kStep, x += kStep, w += 4 * kBlock) {
            for (int64_t i = 0; i < 4 * kBlock; i += 64)
                __builtin_prefetch(w + ahead + i, 0, Rows == 1 ? 3 : 2);
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
            if (Bits == 4) {
                scale = scales.scale(g, v);
                offset = scales.offset(g, v) - splat(8.0f) * scale;
            }
#pragma GCC unroll 16
            for (int r = 0; r < Rows; ++r) {
                const int64_t i = at + r * q.groups;
                Floats dots = to_floats(sums[r][v]) * splat(q.scales[i]);
                y[r][v] += Bits == 8 ? dots : dots * scale + offset * splat(q.sums[i]);
            }
        }
    }
}

// Rows first .. first + rows of a block of outputs. pass: how many groups of rows the block has been
// multiplied by before. In pass 0 its weights come from memory and are prefetched a little ahead; pass
// 1 prefetches the next block. Not inlined: one function for all numbers of rows would spill registers.
template <class T, int Bits, int Rows = kMostTogether<Bits>>
__attribute__((noinline)) void rows_of_block(const QuantizedArgs& a, const Quantized& q,
                                             int64_t first, int64_t rows, int64_t block,
                                             int64_t pass) {
    if constexpr (Rows > 1)
        if (rows < Rows) return rows_of_block<T, Bits, Rows - 1>(a, q, first, rows, block, pass);
    const int64_t size = q.stride * kBlock * Bits / 8;
    const int64_t ahead = pass == 0 ? kAhead : pass == 1 ? size : 0;
    const auto sums = [&](int64_t block, Floats (&y)[Rows][kVectors]) INLINED {
        const GroupScales scales(a, q.groups, block);
        tile<Bits, Rows>(a, q, first, (const uint8_t*)a.weights + block * size, ahead, scales, y);
    };
    Floats y[Rows][kVectors], up[Rows][kVectors];
    sums(block, y);
    if (a.is_gated) sums(block + a.width() / kBlock, up);
    finish<T, Bits>(a, first, Rows, block, y, a.is_gated ? up : nullptr);
}

#if defined(__AMX_TILE__)
constexpr int kLeastTiled = 12;  // rows that are worth configuring the tiles

// Adds the integer products of a group to the sums of some rows.
INLINE void add_group(const Quantized& q, int64_t first, int64_t rows, int64_t g,
                      const Ints (*dots)[kVectors], Floats (*y)[kVectors]) {
    for (int64_t r = 0; r < rows; ++r) {
        const int64_t at = (first + r) * q.groups + g;
        for (int v = 0; v < kVectors; ++v)
            y[r][v] += to_floats(dots[r][v]) * splat(q.scales[at]);
    }
}

// Rows first .. last, at most a chunk, of a block of 8-bit weights: group by group, so that the weights
// stay in L1.
template <class T>
void block_by_tiles(const QuantizedArgs& a, const Quantized& q, int64_t first, int64_t last,
                    int64_t block) {
    const auto w = (const uint32_t*)((const uint8_t*)a.weights + block * q.stride * kBlock);
    Floats y[kChunk][kVectors];
    for (int64_t r = first; r < last; ++r)
        for (int v = 0; v < kVectors; ++v) y[r - first][v] = splat(q.zeros[r]);
    Ints dots[kMostRows][kVectors];
    Tiles tiles;
    for (int64_t g = 0; g < q.groups; ++g)
        for (int64_t r = first; r < last; r += kMostRows) {
            const int64_t rows = last - r < kMostRows ? last - r : kMostRows, words = a.group / 4;
            const auto x = (const uint32_t*)(q.codes + r * q.stride + g * a.group);
            multiply_tiles<TilesBytes>(tiles, rows, x, q.stride / 4, w + g * words * kBlock, W,
                                       kBlock, words, dots, kBlock, kVectors, false);
            add_group(q, r, rows, g, dots, y + (r - first));
        }
    finish<T, 8>(a, first, last - first, block, y);
}
#endif

template <class T, int Bits>
void block_of(const QuantizedArgs& a, const Quantized& q, int64_t first, int64_t last, int64_t block) {
#if defined(__AMX_TILE__)
    const bool is_whole = a.group % (4 * kTileWords) == 0;  // no tile crosses a group
    if (Bits == 8 && is_whole && last - first >= kLeastTiled && has_tiles())
        return block_by_tiles<T>(a, q, first, last, block);
#endif
    const int64_t most = kMostTogether<Bits>, passes = (last - first + most - 1) / most;
    for (int64_t pass = 0; pass < passes; ++pass) {
        const int64_t rows = (last - first + passes - pass - 1) / (passes - pass);  // evenly
        rows_of_block<T, Bits>(a, q, first, rows, block, pass);
        first += rows;
    }
}

template <class T>
void run(const QuantizedArgs& a) {
#if defined(__AMX_TILE__)
    if (a.bits == 4 && is_dequantized_by_amx(a)) return run_by_amx<T, Int4Weights>(a);
#endif
    Scratch scratch;
    const int64_t groups = (a.in_features + a.group - 1) / a.group, stride = groups * a.group;
    // If there are few rows, every thread quantizes them for itself, which is faster than a barrier.
    const bool is_few = a.rows <= 8;
    const int64_t rows = a.rows * (is_few ? a.threads : 1), scales = rows * groups;
    const Quantized shared = {scratch.take<int8_t>(rows * stride), scratch.take<float>(scales),
                              scratch.take<float>(scales), scratch.take<float>(rows), stride,
                              groups};
    const int64_t blocks = (a.width() + kBlock - 1) / kBlock;
    const int64_t chunks = (a.rows + kChunk - 1) / kChunk;
    const int64_t share = std::max<int64_t>(1, chunks * blocks / (kShares * a.threads));
    const bool is_small = a.rows * stride * a.out_features < kSerialElements;
    const auto quantize_row = [&](const Quantized& q, int64_t r) {
        quantize((const T*)a.x + r * a.x_row, a, q, r);
    };
    if (!is_few)
        for_tasks({a.rows, a.threads}, is_small, [&](int64_t r) { quantize_row(shared, r); });
    // With a single chunk, a piece is a run of weights: long ones first, shorter ones later.
    const Share tasks = {chunks * blocks, a.threads, share, chunks == 1 ? INT64_MAX : share};
    bool* is_quantized = scratch.take<bool>(a.threads);
    std::fill_n(is_quantized, a.threads, false);
    for_pieces(tasks, is_small, [&](int64_t begin, int64_t end, int64_t thread) {
        Quantized q = shared;
        if (is_few) {
            const int64_t skipped = thread * a.rows, scales = skipped * groups;
            q.codes += skipped * stride, q.zeros += skipped;
            q.scales += scales, q.sums += scales;
            for (int64_t r = 0; r < a.rows && !is_quantized[thread]; ++r) quantize_row(q, r);
            is_quantized[thread] = true;
        }
        for (int64_t task = begin; task < end; ++task) {
            const int64_t first = task / blocks * kChunk, block = task % blocks;
            const int64_t last = std::min(first + kChunk, a.rows);
            a.bits == 8 ? block_of<T, 8>(a, q, first, last, block)
                        : block_of<T, 4>(a, q, first, last, block);
        }
    });
}

}  // namespace

extern "C" __attribute__((visibility("default"))) void atoll_linear_quantized(const QuantizedArgs* args) {
    args->is_bf16 ? run<bf16>(*args) : run<float>(*args);
}
