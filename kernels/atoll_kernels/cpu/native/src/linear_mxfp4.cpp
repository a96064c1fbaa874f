// Linear layers with MXFP4 weights: out = activation(x @ w.T + bias). Nothing is rounded but the result:
// codes are looked up in registers and multiplied by x in float32 or bfloat16, and the sums of a group
// of inputs by the group's power of two. With AMX, many rows are multiplied by linear_int4_amx.h.

#include <algorithm>

#include "fp4.h"
#include "linear_int4_amx.h"
#include "scratch.h"

using namespace kernels;

namespace {

constexpr int64_t kChunk = 96;  // rows that are multiplied by a block of weights before the next one
constexpr int kMostTogether = W == 16 ? 6 : 3;  // rows that are multiplied together
constexpr int64_t kAhead = 4096;  // prefetch distance in bytes of weights

// Sums of R rows of x (row stride x_words) and a block of outputs, before the epilogue.
template <class Policy, int R>
INLINE void tile(const QuantizedArgs& a, const uint32_t* x, int64_t x_words, int64_t block,
                 Floats (*y)[kVectors]) {
    constexpr int kWords = 8 / Policy::kPerWord;  // of x, for a word of codes
    const uint8_t* w = (const uint8_t*)a.weights + block * a.in_features * kBlock / 2;
    const uint8_t* scales = fp4_scales(a, block);
    Floats total[R][kVectors] = {};
    for (int64_t g = 0; g < a.in_features / kFp4Group; ++g, scales += kBlock) {
        Floats sums[R][kVectors] = {};
        for (int64_t i = 0; i < kFp4Group; i += 8, x += kWords, w += 4 * kBlock) {
            for (int64_t at = 0; at < 4 * kBlock; at += 64) __builtin_prefetch(w + kAhead + at);
            Words codes[kVectors];
#pragma GCC unroll 2
            for (int v = 0; v < kVectors; ++v) codes[v] = load_raw<Words>(w + 4 * W * v);
#pragma GCC unroll 8
            for (int t = 0; t < kWords; ++t)
#pragma GCC unroll 2
                for (int v = 0; v < kVectors; ++v) {
                    const Words values = fp4_words(Policy(), codes[v], t);
#pragma GCC unroll 8
                    for (int r = 0; r < R; ++r)
                        sums[r][v] = Policy::step(sums[r][v], x[r * x_words + t], values);
                }
        }
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) {
            const Floats scale = fp4_scale(scales + W * v);
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r) total[r][v] += sums[r][v] * scale;
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) y[r][v] = total[r][v];
}

// The same for up to kMostTogether rows. Not inlined: one function for all numbers of rows would spill
// registers.
template <class Policy, int R = kMostTogether>
__attribute__((noinline)) void sums_of_rows(const QuantizedArgs& a, const uint32_t* x,
                                            int64_t x_words, int64_t rows, int64_t block,
                                            Floats (*y)[kVectors]) {
    if constexpr (R > 1)
        if (rows < R) return sums_of_rows<Policy, R - 1>(a, x, x_words, rows, block, y);
    tile<Policy, R>(a, x, x_words, block, y);
}

// x as words of the policy: itself, or a copy in which every row begins with a whole word.
template <class T, class Policy>
const uint32_t* words_of(const QuantizedArgs& a, Scratch& scratch, int64_t& x_words) {
    using Element = std::conditional_t<Policy::kPerWord == 2, bf16, float>;
    x_words = a.x_row / Policy::kPerWord;
    const bool is_aligned = a.x % 4 == 0 && a.x_row % Policy::kPerWord == 0;
    if (std::is_same_v<T, Element> && is_aligned) return (const uint32_t*)a.x;
    x_words = a.in_features / Policy::kPerWord;
    auto copy = scratch.take<Element>(a.rows * a.in_features);
    for_rows(a.rows, a.in_features, a.threads, [&](int64_t r) {
        for_vectors(a.in_features, [&](int64_t i, auto n) {
            write(copy + r * a.in_features + i, read((const T*)a.x + r * a.x_row + i, n), n);
        });
    });
    return (const uint32_t*)copy;
}

template <class T, class Policy>
void run(const QuantizedArgs& a) {
#if defined(__AMX_TILE__)
    if (std::is_same_v<T, bf16> && is_dequantized_by_amx(a)) return run_by_amx<T, Fp4Weights>(a);
#endif
    Scratch scratch;
    int64_t x_words = 0;
    const uint32_t* x = words_of<T, Policy>(a, scratch, x_words);
    const int64_t blocks = (a.width() + kBlock - 1) / kBlock;
    const int64_t chunks = (a.rows + kChunk - 1) / kChunk;
    const bool is_small = a.rows * a.in_features * a.out_features < kSerialElements;
    for_tasks({chunks * blocks, a.threads}, is_small, [&](int64_t task) {
        const int64_t block = task % blocks, last = std::min((task / blocks + 1) * kChunk, a.rows);
        for (int64_t first = task / blocks * kChunk; first < last; first += kMostTogether) {
            const int64_t rows = std::min<int64_t>(kMostTogether, last - first);
            Floats y[kMostTogether][kVectors], up[kMostTogether][kVectors];
            sums_of_rows<Policy>(a, x + first * x_words, x_words, rows, block, y);
            if (a.is_gated)
                sums_of_rows<Policy>(a, x + first * x_words, x_words, rows,
                                     block + a.width() / kBlock, up);
            finish<T, 4>(a, first, rows, block, y, a.is_gated ? up : nullptr);
        }
    });
}

}  // namespace

extern "C" __attribute__((visibility("default"))) void atoll_linear_mxfp4(const QuantizedArgs* args) {
#if defined(__AVX512BF16__)
    if (args->is_bf16) return run<bf16, Bfloat16>(*args);
#else
    if (args->is_bf16) return run<bf16, Float32>(*args);
#endif
    run<float, Float32>(*args);
}
