// Linear layers whose codes are exact in bfloat16: out = activation(x @ w.T + bias). Nothing is rounded
// but the result: codes are converted in registers and multiplied by x in float32 or bfloat16, and the
// sums of a group of inputs by the group's scale. With AMX, many rows are multiplied by
// linear_int4_amx.h. A Format says what a word of codes stands for, and has the scales of a block.
#pragma once

#include <algorithm>

#include "linear_int4_amx.h"
#include "scratch.h"

namespace kernels {

constexpr int64_t kChunk = 96;  // rows that are multiplied by a block of weights before the next one
constexpr int kMostTogether = W == 16 ? 6 : 3;  // rows that are multiplied together
constexpr int64_t kAhead = 4096;  // prefetch distance in bytes of weights

// Sums of R rows of x (row stride x_words) and a block of outputs, before the epilogue.
template <class Policy, class Format, int R>
INLINE void tile(const QuantizedArgs& a, const uint32_t* x, int64_t x_words, int64_t block,
                 Floats (*y)[kVectors]) {
    constexpr int kWords = Format::kInputs / Policy::kPerWord;  // of x, for a word of codes
    const int64_t group = Format::group(a);
    const uint8_t* w = (const uint8_t*)a.weights + block * a.in_features * kBlock * 4 / Format::kInputs;
    const Format scales(a, block);
    Floats total[R][kVectors] = {};
    for (int64_t g = 0; g < a.in_features / group; ++g) {
        Floats sums[R][kVectors] = {};
        for (int64_t i = 0; i < group; i += Format::kInputs, x += kWords, w += 4 * kBlock) {
            for (int64_t at = 0; at < 4 * kBlock; at += 64) __builtin_prefetch(w + kAhead + at);
            Words codes[kVectors];
#pragma GCC unroll 2
            for (int v = 0; v < kVectors; ++v) codes[v] = load_raw<Words>(w + 4 * W * v);
#pragma GCC unroll 8
            for (int t = 0; t < kWords; ++t)
#pragma GCC unroll 2
                for (int v = 0; v < kVectors; ++v) {
                    const Words values = Format::words(Policy(), codes[v], t);
#pragma GCC unroll 8
                    for (int r = 0; r < R; ++r)
                        sums[r][v] = Policy::step(sums[r][v], x[r * x_words + t], values);
                }
        }
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) {
            const Floats scale = scales.scale(g, v);
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
template <class Policy, class Format, int R = kMostTogether>
__attribute__((noinline)) void sums_of_rows(const QuantizedArgs& a, const uint32_t* x,
                                            int64_t x_words, int64_t rows, int64_t block,
                                            Floats (*y)[kVectors]) {
    if constexpr (R > 1)
        if (rows < R) return sums_of_rows<Policy, Format, R - 1>(a, x, x_words, rows, block, y);
    tile<Policy, Format, R>(a, x, x_words, block, y);
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

template <class T, class Policy, class Format>
void run_exact(const QuantizedArgs& a) {
#if defined(__AMX_TILE__)
    if (std::is_same_v<T, bf16> && is_dequantized_by_amx(a))
        return run_by_amx<T, typename Format::Wide>(a);
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
            sums_of_rows<Policy, Format>(a, x + first * x_words, x_words, rows, block, y);
            if (a.is_gated)
                sums_of_rows<Policy, Format>(a, x + first * x_words, x_words, rows,
                                     block + a.width() / kBlock, up);
            finish<T, 4>(a, first, rows, block, y, a.is_gated ? up : nullptr);
        }
    });
}

// x and the result in the dtype of args, multiplied in it if the machine does so.
template <class Format>
void run_exact(const QuantizedArgs& a) {
#if defined(__AVX512BF16__)
    if (a.is_bf16) return run_exact<bf16, Bfloat16, Format>(a);
#else
    if (a.is_bf16) return run_exact<bf16, Float32, Format>(a);
#endif
    run_exact<float, Float32, Format>(a);
}

}  // namespace kernels
