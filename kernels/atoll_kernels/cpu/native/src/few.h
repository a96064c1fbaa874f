// Attention of a few rows, as in decoding: keys and values are read where they lie, once. To arrange
// them for products of tiles would take longer than the products.
#pragma once

#include "attention.h"

namespace kernels {

constexpr int64_t kFewRows = 4;
constexpr int64_t kAhead = 2 * W;  // keys that are fetched ahead

// Adds the products of W words to W sums.
INLINE Floats dot(Float32, Floats sums, Words a, Words b) {
    return sums + (Floats)a * (Floats)b;
}
#if defined(__AVX512BF16__)
INLINE Floats dot(Bfloat16, Floats sums, Words a, Words b) {
    return (Floats)_mm512_dpbf16_ps((__m512)sums, (__m512bh)a, (__m512bh)b);
}
#endif

// The sum of each of W vectors: element i is that of x[i].
INLINE Floats sums_of(Floats (&x)[W]) {
#pragma GCC unroll 4
    for (int step = 1; step < W; step *= 2) {
        Words own = {}, other = {};
        for (int i = 0; i < W; ++i) {
            // Elements with the bit `step` are the second vector's.
            own[i] = (i & step) ? W + i : i;
            other[i] = own[i] ^ step;
        }
#pragma GCC unroll 16
        for (int i = 0; i < W; i += 2 * step) {
            const Floats a = x[i], b = x[i + step];
            x[i] = __builtin_shuffle(a, b, (Ints)own) + __builtin_shuffle(a, b, (Ints)other);
        }
    }
    return x[0];
}

template <class T, class Policy>
struct FewRows {
    using Base = Attention<T, Policy>;
    static constexpr int kPer = Base::kPer;
    const Base& a;

    // Rows that this thread will want next: `count` of them are left to be fetched.
    struct Later {
        const T* rows[kBlock];
        int64_t count = 0;
    };

    void fetch(const T* row) const {
        for (int64_t i = 0; i < a.D; i += 64 / sizeof(T)) __builtin_prefetch(row + i);
    }
    // Into the second cache: in the first it would take the place of what is being read.
    void fetch(Later& later, int64_t most) const {
        for (most = std::min(most, later.count); most > 0; --most) {
            const T* row = later.rows[--later.count];
            for (int64_t i = 0; i < a.D; i += 64 / sizeof(T)) __builtin_prefetch(row + i, 0, 2);
        }
    }

    // Scores of rows against `count` keys; a row's are kBlock / W vectors apart.
    void score(const uint32_t* queries, int64_t rows, const T* const* keys, int64_t count,
               Later& later, Floats* scores) const {
        for (int64_t j = 0; j < count; j += W) {
            const T* row[W];
            for (int i = 0; i < W; ++i) row[i] = keys[std::min(j + i, count - 1)];
            for (int64_t i = j + kAhead; i < std::min(j + kAhead + W, count); ++i) fetch(keys[i]);
            fetch(later, W);
            for (int64_t r = 0; r < rows; ++r) {
                Floats x[W] = {};
                for (int64_t u = 0; u < a.words; u += W) {
                    const int64_t n = std::min<int64_t>(W, a.words - u);
                    const uint32_t* at = queries + r * a.words + u;
                    const Words q = n == W ? load_raw<Words>(at) : load_some<Words, 4>(at, n);
#pragma GCC unroll 16
                    for (int i = 0; i < W; ++i)
                        x[i] = dot(Policy(), x[i], q, Base::load_words(row[i] + u * kPer, n));
                }
                scores[r * kBlock / W + j / W] = sums_of(x);
            }
        }
    }

    // Adds powers (R rows, kBlock floats apart) times values [first, last) to P panels of sums.
    template <int R, int P>
    INLINE void add(const float* powers, const T* const* values, int64_t first, int64_t last,
                    int64_t panel, Later& later, Floats* sums) const {
        Floats s[R][P];
        int64_t n[P];
        for (int p = 0; p < P; ++p) n[p] = std::min<int64_t>(W, a.D - (panel + p) * W);
        for (int r = 0; r < R; ++r)
            for (int p = 0; p < P; ++p) s[r][p] = sums[r * a.panels + panel + p];
        for (int64_t j = first; j < last; ++j) {
            if (panel == 0 && j + kAhead < last) fetch(values[j + kAhead]);
            if (panel == 0) fetch(later, 1);
            const T* row = values[j] + panel * W;
            Floats v[P];
#pragma GCC unroll 4
            for (int p = 0; p < P; ++p)
                v[p] = n[p] == W ? load(row + p * W) : load(row + p * W, n[p]);
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
                for (int p = 0; p < P; ++p) s[r][p] += splat(powers[r * kBlock + j]) * v[p];
        }
        for (int r = 0; r < R; ++r)
            for (int p = 0; p < P; ++p) sums[r * a.panels + panel + p] = s[r][p];
    }

    template <int R = kFewRows>
    void add_all(int64_t rows, const float* powers, const T* const* values, int64_t first,
                 int64_t last, Later& later, Floats* sums) const {
        if constexpr (R > 1)
            if (rows < R) return add_all<R - 1>(rows, powers, values, first, last, later, sums);
        constexpr int P = 4;
        int64_t p = 0;
        for (; p + P <= a.panels; p += P) add<R, P>(powers, values, first, last, p, later, sums);
        for (; p < a.panels; ++p) add<R, 1>(powers, values, first, last, p, later, sums);
    }

    // Where keys or values [first, first + count) of an item are.
    void locate(const Item& item, int64_t base, int64_t block, int64_t token, int64_t head,
                int64_t first, int64_t count, const T** rows) const {
        const AttentionArgs& args = a.args;
        for (int64_t j = 0; j < count;) {
            const T* at = a.row(base, block, token, head, item, first + j);
            // To the end of the cache's block, rows are evenly apart.
            const int64_t left =
                args.blocks_row ? args.block_size - (first + j) % args.block_size : count;
            for (const int64_t end = std::min(count, j + left); j < end; ++j, at += token)
                rows[j] = at;
        }
    }

    void locate_later(const Item& next, Later& keys, Later& values) const {
        const AttentionArgs& args = a.args;
        keys.count = values.count = std::min(kBlock, next.k1 - next.k0);
        locate(next, args.k, args.k_block, args.k_token, args.k_head, next.k0, keys.count,
               keys.rows);
        locate(next, args.v, args.v_block, args.v_token, args.v_head, next.k0, values.count,
               values.rows);
    }

    // next: what this thread will probably do afterwards, or null. It is fetched meanwhile, since
    // caches hold no more than the weights that come between two calls.
    void run(const Item& item, const Item* next, Partial* partials) const {
        const AttentionArgs& args = a.args;
        const int64_t keys = a.num_keys(item.sequence), rows = item.count * a.group;
        const int64_t offset = keys - a.num_queries(item.sequence) + item.first;
        const bool biased = args.slopes || args.relative;
        const int64_t bias_row = item.count + kBlock + W;
        Scratch scratch;
        auto queries = scratch.take<uint32_t>(rows * a.words + W);
        auto scores = scratch.take<Floats>(kFewRows * kBlock / W);
        auto sums = scratch.take<Floats>(rows * a.panels);
        auto bias = scratch.take<float>(biased ? a.group * bias_row : 0);
        float maxima[kFewRows], totals[kFewRows] = {};
        const T *key[kBlock], *value[kBlock];
        Later later_keys, later_values;
        a.load_queries(item, queries);
        std::fill_n(sums, rows * a.panels, Floats{});
        std::fill_n(maxima, rows, -INFINITY);
        for (int64_t b = item.k0; b < item.k1; b += kBlock) {
            const int64_t n = std::min(kBlock, item.k1 - b);
            locate(item, args.k, args.k_block, args.k_token, args.k_head, b, n, key);
            locate(item, args.v, args.v_block, args.v_token, args.v_head, b, n, value);
            for (int64_t i = 0; i < std::min(kAhead, n); ++i) fetch(key[i]);
            if (next && b + kBlock >= item.k1) locate_later(*next, later_keys, later_values);
            score(queries, rows, key, n, later_keys, scores);
            for (int64_t i = 0; i < std::min(kAhead, n); ++i) fetch(value[i]);
            for (int64_t g = 0; biased && g < a.group; ++g)
                a.fill_bias(item.kv_head * a.group + g, b - (offset + item.count - 1), bias_row,
                            bias + g * bias_row);
            int64_t least = n, most = 0;
            for (int64_t r = 0; r < rows; ++r) {
                const int64_t g = r / item.count, q = r % item.count, p = offset + q;
                const int64_t lo = std::max<int64_t>(a.first_key(p) - b, 0);
                const int64_t hi = std::min(a.end_key(p, keys) - b, n);
                Floats* row = scores + r * kBlock / W;
                const int64_t end = (n + W - 1) / W;
                if (lo >= hi) {
                    std::fill_n(row, end, Floats{});
                    continue;
                }
                least = std::min(least, lo), most = std::max(most, hi);
                const float* table =
                    biased ? bias + g * bias_row + item.count - 1 - q : nullptr;
                const float factor = a.template softmax<true>(row, table, 0, end, lo, hi,
                                                              (uint32_t*)row, maxima[r], totals[r]);
                if (factor != 1.0f)
                    for (int64_t i = 0; i < a.panels; ++i) sums[r * a.panels + i] *= splat(factor);
            }
            if (least < most)
                add_all(rows, (const float*)scores, value, least, most, later_values, sums);
        }
        a.finish(item, partials, maxima, totals, sums);
    }
};

}  // namespace kernels
