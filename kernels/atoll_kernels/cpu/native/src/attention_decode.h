// Attention of a few rows, as in decoding: keys and values are read in place, once. Packing them for
// the matrix kernels would take longer than the products.
#pragma once

#include "attention.h"

namespace kernels {

constexpr int64_t kMaxDecodeRows = 4;

// Adds the products of W words to W sums.
INLINE Floats dot(Float32, Floats sums, Words a, Words b) {
    return sums + (Floats)a * (Floats)b;
}
#if defined(__AVX512BF16__)
INLINE Floats dot(Bfloat16, Floats sums, Words a, Words b) {
    return (Floats)_mm512_dpbf16_ps((__m512)sums, (__m512bh)a, (__m512bh)b);
}
#endif

template <class T, class Policy>
struct DecodeAttention {
    using Shared = Attention<T, Policy>;
    static constexpr int kPer = Shared::kPer;
    const Shared& a;

    // Scores of rows against `count` keys; the row stride is kBlock / W vectors. Vectors: the number
    // of vectors of words in a row, or 0 if it is not known here or the last one is partial.
    template <int Vectors>
    void score(const uint32_t* queries, int64_t rows, const T* const* keys, int64_t count,
               Prefetched<T>& later, Floats* scores) const {
        const int64_t vectors = Vectors ? Vectors : a.vectors();
        for (int64_t j = 0; j < count; j += W) {
            const T* row[W];
            for (int i = 0; i < W; ++i) row[i] = keys[std::min(j + i, count - 1)];
            fetch(keys, j + kAhead, j + kAhead + W, count, a.D);
            later.fetch(W, a.D);
            for (int64_t r = 0; r < rows; ++r) {
                Floats x[W];
#pragma GCC unroll 16
                for (int i = 0; i < W; ++i) x[i] = Floats{};
#pragma GCC unroll 4
                for (int64_t u = 0; u < vectors; ++u) {
                    const int64_t n = Vectors ? W : std::min<int64_t>(W, a.words - u * W);
                    const uint32_t* at = queries + r * a.words + u * W;
                    const Words q = n == W ? load_raw<Words>(at) : load_some<Words, 4>(at, n);
#pragma GCC unroll 16
                    for (int i = 0; i < W; ++i)
                        x[i] = dot(Policy(), x[i], q, Shared::load_words(row[i] + u * W * kPer, n));
                }
                scores[r * kBlock / W + j / W] = sums_of(x);
            }
        }
    }

    void score_all(const uint32_t* queries, int64_t rows, const T* const* keys, int64_t count,
                   Prefetched<T>& later, Floats* scores) const {
        switch (a.words % W ? 0 : a.words / W) {
            case 1: return score<1>(queries, rows, keys, count, later, scores);
            case 2: return score<2>(queries, rows, keys, count, later, scores);
            case 4: return score<4>(queries, rows, keys, count, later, scores);
            default: return score<0>(queries, rows, keys, count, later, scores);
        }
    }

    // Adds powers (R rows, row stride kBlock words) times values [first, last) to V vectors of the
    // sums, from vector `start` on. A word holds one element, or those of two consecutive keys: then
    // sums stay in the order that interleaving gives, until `arrange`.
    template <int R, int V>
    INLINE void add(const uint32_t* powers, const T* const* values, int64_t first, int64_t last,
                    int64_t start, Prefetched<T>& later, Floats* sums) const {
        Floats s[R][V][kPer];
        const int64_t row = a.value_vectors() * kPer;
        sums += start * kPer;
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) std::memcpy(s[r], sums + r * row, sizeof s[r]);
        for (int64_t j = first / kPer * kPer; j < last; j += kPer) {
            const T* pair[kPer];
#pragma GCC unroll 2
            for (int i = 0; i < kPer; ++i) pair[i] = values[std::min(j + i, last - 1)];
            if (start == 0) {
                fetch(values, j + kAhead, j + kAhead + kPer, last, a.value_dim);
                later.fetch(kPer, a.value_dim);
            }
            Words v[V][kPer];
#pragma GCC unroll 4
            for (int u = 0; u < V; ++u) load_values(pair, start + u, v[u]);
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
                for (int u = 0; u < V; ++u)
#pragma GCC unroll 2
                    for (int i = 0; i < kPer; ++i)
                        s[r][u][i] = Policy::step(s[r][u][i], powers[r * kBlock + j / kPer], v[u][i]);
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) std::memcpy(sums + r * row, s[r], sizeof s[r]);
    }

    INLINE void load_values(const T* const* rows, int64_t vector, Words* v) const {
        const int64_t at = vector * W * kPer, n = std::min<int64_t>(W, a.value_words - vector * W);
        const Words first = Shared::load_words(rows[0] + at, n);
        if constexpr (kPer == 1) {
            v[0] = first;
        } else {
            const Words second = Shared::load_words(rows[1] + at, n);
            v[0] = interleaved<0>(first, second), v[1] = interleaved<1>(first, second);
        }
    }

    template <int R = kMaxDecodeRows>
    void add_all(int64_t rows, const uint32_t* powers, const T* const* values, int64_t first,
                 int64_t last, Prefetched<T>& later, Floats* sums) const {
        if constexpr (R > 1)
            if (rows < R) return add_all<R - 1>(rows, powers, values, first, last, later, sums);
        constexpr int V = 4 / kPer;
        int64_t u = 0;
        const int64_t vectors = a.value_vectors();
        for (; u + V <= vectors; u += V) add<R, V>(powers, values, first, last, u, later, sums);
        for (; u < vectors; ++u) add<R, 1>(powers, values, first, last, u, later, sums);
    }

    // Puts the sums of rows in the order of features, as contiguous panels.
    void arrange(int64_t rows, Floats* sums) const {
        if constexpr (kPer == 2)
            for (int64_t r = 0; r < rows; ++r)
                for (int64_t u = 0; u < a.value_vectors(); ++u) {
                    const Floats* at = sums + (r * a.value_vectors() + u) * kPer;
                    const Floats low = at[0], high = at[1];
                    Floats* to = sums + r * a.panels + u * kPer;
                    to[0] = shuffled<Lanes<0>>(low, high);
                    if (u * kPer + 1 < a.panels) to[1] = shuffled<Lanes<1>>(low, high);
                }
    }

    // next: see BlockedAttention::run.
    void run(const Item& item, const Item* next, Partial* partials) const {
        const int64_t keys = a.num_keys(item.sequence), rows = item.count * a.group;
        const int64_t offset = a.position(item);
        Scratch scratch;
        auto queries = scratch.take<uint32_t>(rows * a.words + W);
        auto scores = scratch.take<Floats>(kMaxDecodeRows * kBlock / W);
        const int64_t width = a.value_vectors() * kPer;  // vectors in a row of sums
        auto sums = scratch.take<Floats>(rows * width);
        auto bias = scratch.take<float>(a.is_biased ? a.group * a.bias_row(item) : 0);
        float maxima[kMaxDecodeRows], totals[kMaxDecodeRows] = {};
        const T *key[kBlock], *value[kBlock];
        Prefetched<T> next_keys, next_values;
        a.load_queries(item, queries);
        std::fill_n(sums, rows * width, Floats{});
        std::fill_n(maxima, rows, -INFINITY);
        for (int64_t b = item.k0; b < item.k1; b += kBlock) {
            const int64_t n = std::min(kBlock, item.k1 - b);
            a.locate_keys(item, b, n, key);
            a.locate_values(item, b, n, value);
            fetch(key, 0, kAhead, n, a.D);
            if (next && b + kBlock >= item.k1) a.locate_next(*next, next_keys, next_values);
            score_all(queries, rows, key, n, next_keys, scores);
            fetch(value, 0, kAhead, n, a.value_dim);
            if (a.is_biased) a.fill_bias(item, b, bias);
            Range all = {n, 0};
            for (int64_t r = 0; r < rows; ++r) {
                const Range visible = a.visible(offset + r % item.count, keys, b, n);
                Floats* row = scores + r * kBlock / W;
                const int64_t end = (n + W - 1) / W;
                if (visible.is_empty()) {
                    std::fill_n(row, end, Floats{});
                    continue;
                }
                all.include(visible);
                const float factor = a.softmax(row, a.bias_of(item, bias, r), 0, end, visible,
                                               (uint32_t*)row, maxima[r], totals[r]);
                if (factor != 1.0f)
                    for (int64_t i = 0; i < width; ++i) sums[r * width + i] *= splat(factor);
            }
            if (!all.is_empty())
                add_all(rows, (const uint32_t*)scores, value, all.first, all.end, next_values, sums);
        }
        arrange(rows, sums);
        a.finish(item, partials, maxima, totals, sums);
    }
};

}  // namespace kernels
