// Attention of many rows, as in prefill: each block of keys and values is packed once for all rows of
// an item, and multiplied by the matrix kernels.
#pragma once

#include <optional>

#include "attention_distances.h"

namespace kernels {

constexpr int64_t kPad = 2 * W;  // keys are padded to a multiple: a step of AMX tiles

template <class T, class Policy>
struct BlockedAttention {
    using Shared = Attention<T, Policy>;
    static constexpr int kPer = Shared::kPer;
    const Shared& a;
    const int64_t D = a.D, value_dim = a.value_dim, words = a.words, panels = a.panels;

    static int64_t padded(int64_t keys) { return (keys + kPad - 1) / kPad * kPad; }

    // Keys as panels (words, W keys); those beyond the last are zero.
    void pack_keys(const T* const* keys, int64_t count, Prefetched<T>& later, uint32_t* out) const {
        fetch(keys, 0, kAhead, count, D);
        for (int64_t j = 0; j < padded(count); j += W, out += words * W) {
            fetch(keys, j + kAhead, j + kAhead + W, count, D);
            later.fetch(W, D);
            const T* rows[W];
            for (int i = 0; i < W; ++i) rows[i] = j + i < count ? keys[j + i] : nullptr;
            for (int64_t u = 0; u < words; u += W) {
                Words x[W];
                const int64_t n = std::min<int64_t>(W, words - u);
#pragma GCC unroll 16
                for (int i = 0; i < W; ++i)
                    x[i] = rows[i] ? Shared::load_words(rows[i] + u * kPer, n) : Words{};
                transpose(x);
                if (n == W) {
#pragma GCC unroll 16
                    for (int i = 0; i < W; ++i) store_raw(out + (u + i) * W, x[i]);
                } else {
                    std::memcpy(out + u * W, x, n * W * 4);
                }
            }
        }
    }

    // Values as panels of W features: (panel, kBlock / kPer words of keys, W).
    void pack_values(const T* const* values, int64_t count, Prefetched<T>& later, uint32_t* out) const {
        fetch(values, 0, kAhead, count, value_dim);
        for (int64_t j = 0; j < padded(count); j += kPer) {
            fetch(values, j + kAhead, j + kAhead + kPer, count, value_dim);
            later.fetch(kPer, value_dim);
            const T* even = j < count ? values[j] : nullptr;
            const T* odd = kPer == 2 && j + 1 < count ? values[j + 1] : nullptr;
            for (int64_t p = 0; p < panels; ++p) {
                const int64_t n = value_dim - p * W;
                Words low = half_or_float(even, p, n);
                if constexpr (kPer == 2) low = (low >> 16) | half_or_float(odd, p, n);
                store_raw(out + (p * (kBlock / kPer) + j / kPer) * W, low);
            }
        }
    }
    static INLINE Words half_or_float(const T* row, int64_t p, int64_t n) {
        if (!row) return Words{};
        return (Words)(n >= W ? load(row + p * W) : load(row + p * W, n));
    }

    // next: the item that this thread will probably take next, or null. Its first keys and values
    // are prefetched: between two calls, weights evict everything else from the caches.
    void run(const Item& item, const Item* next, Partial* partials) const {
        const int64_t keys = a.num_keys(item.sequence), rows = item.count * a.group;
        const int64_t offset = a.position(item);
        const bool tiled = is_tiled<Policy>(rows, words);
        const int64_t step = tiled ? kMostRows : kTileRows, even = tiled ? kPad / W : 1;
        Tiles tiles;
        Scratch scratch;
        auto queries = scratch.take<uint32_t>(rows * words + W);
        auto packed_k = scratch.take<uint32_t>(kBlock * words);
        auto packed_v = scratch.take<uint32_t>(kBlock / kPer * panels * W);
        auto scores = scratch.take<Floats>(kMostRows * kBlock / W);
        auto powers = scratch.take<uint32_t>(kMostRows * kBlock / kPer);
        auto values = scratch.take<Floats>(rows * panels);
        auto maxima = scratch.take<float>(rows), sums = scratch.take<float>(rows);
        auto bias = scratch.take<float>(a.is_biased ? a.group * a.bias_row(item) : 0);
        const T *key[kBlock], *value[kBlock];
        Prefetched<T> next_keys, next_values;
        std::optional<Distances<T, Policy>> distances;
        if (a.is_disentangled)
            distances.emplace(a, item, scratch, tiles, tiled, step, even * W,
                              [&](const T* const* found, int64_t count, uint32_t* out) {
                                  Prefetched<T> none;
                                  pack_keys(found, count, none, out);
                              });
        a.load_queries(item, queries);
        std::fill_n(values, rows * panels, Floats{});
        std::fill_n(maxima, rows, -INFINITY);
        std::fill_n(sums, rows, 0.0f);

        for (int64_t b = item.k0; b < item.k1; b += kBlock) {
            const int64_t n = std::min(kBlock, item.k1 - b);
            a.locate_keys(item, b, n, key);
            a.locate_values(item, b, n, value);
            if (next && b + kBlock >= item.k1) a.locate_next(*next, next_keys, next_values);
            pack_keys(key, n, next_keys, packed_k);
            pack_values(value, n, next_values, packed_v);
            if (a.is_biased) a.fill_bias(item, b, bias);
            if (distances) distances->begin(key, b, n);
            for (int64_t r = 0; r < rows; r += step) {
                const int64_t count = std::min(step, rows - r);
                Range visible[kMostRows], all = {n, 0};
                for (int64_t i = 0; i < count; ++i) {
                    visible[i] = a.visible(offset + (r + i) % item.count, keys, b, n);
                    if (!visible[i].is_empty()) all.include(visible[i]);
                }
                if (all.is_empty()) continue;
                const int64_t wide = even * W, p0 = all.first / wide * even;
                const int64_t p1 = (all.end + wide - 1) / wide * even;
                multiply<Policy>(tiles, tiled, count, queries + r * words, words,
                                 packed_k + p0 * words * W, words * W, words, scores, kBlock / W,
                                 p1 - p0, false);
                if (distances) distances->begin_rows(queries + r * words, r, count);
                for (int64_t i = 0; i < count; ++i) {
                    uint32_t* row = powers + i * kBlock / kPer;
                    if (visible[i].is_empty()) {
                        std::fill_n(row, (p1 - p0) * W / kPer, 0u);
                        continue;
                    }
                    const float* added =
                        distances ? distances->of(r + i, i) : a.bias_of(item, bias, r + i);
                    const float factor = a.softmax(scores + i * kBlock / W, added, p0, p1, visible[i],
                                                   row, maxima[r + i], sums[r + i]);
                    if (factor != 1.0f)
                        for (int64_t p = 0; p < panels; ++p)
                            values[(r + i) * panels + p] *= splat(factor);
                }
                multiply<Policy>(tiles, tiled, count, powers, kBlock / kPer,
                                 packed_v + p0 * W / kPer * W, kBlock / kPer * W,
                                 (p1 - p0) * W / kPer, values + r * panels, panels, panels, true);
            }
        }
        a.finish(item, partials, maxima, sums, values);
    }
};

}  // namespace kernels
