// One item of attention: some queries of one sequence against its keys, for the query heads that
// share a key-value head. Keys come in blocks; each block is packed once for all of the item's rows,
// and rows keep a running maximum and sum (online softmax, Milakov & Gimelshein 2018).
#pragma once

#include <cmath>
#include <limits>

#include "prefetch.h"
#include "scratch.h"
#include "shuffle.h"
#include "gemm_amx.h"

namespace kernels {

constexpr int64_t kPad = 2 * W;    // keys are filled up to a multiple: a step of tiles
constexpr int64_t kMaxRows = 256;  // rows of an item: queries times heads of a group

// Filled by atoll_kernels/cpu/attention.py: the same fields in the same order. Strides in elements.
struct AttentionArgs {
    int64_t q, k, v, out, starts_q, starts_k, blocks, slopes, relative;
    int64_t q_token, q_head, k_block, k_token, k_head, v_block, v_token, v_head;
    int64_t blocks_row, block_size;  // blocks_row 0: keys are packed, starts_k their bounds
    int64_t num_seqs, num_heads, num_kv_heads, head_dim;
    int64_t causal, window, distance, threads, is_bf16;
    double scale;
};

// Queries [first, first + count) of a sequence, keys [k0, k1). part < 0: the only item of its rows.
struct Item {
    int32_t sequence, kv_head;
    int64_t first, count, k0, k1, part;
    int64_t cost() const { return count * (k1 - k0); }
};

// What an item leaves when its keys are only a part: per row a maximum, a sum, and values.
struct Partial {
    float *maxima, *sums;
    Floats* values;
};

template <class T, class Policy>
struct Attention {
    static constexpr int kPer = Policy::kPerWord;
    const AttentionArgs& args;
    const int64_t D = args.head_dim, words = (D + kPer - 1) / kPer, panels = (D + W - 1) / W;
    const int64_t group = args.num_heads / args.num_kv_heads;

    int64_t vectors() const { return (words + W - 1) / W; }
    int64_t num_queries(int64_t s) const { return start_q(s + 1) - start_q(s); }
    int64_t start_q(int64_t s) const { return ((const int32_t*)args.starts_q)[s]; }
    int64_t num_keys(int64_t s) const {
        auto starts = (const int32_t*)args.starts_k;
        return args.blocks_row ? starts[s] : starts[s + 1] - starts[s];
    }

    // Keys that a query at position p sees: [first_key(p), end_key(p, num_keys)).
    int64_t first_key(int64_t p) const {
        return args.window ? std::max<int64_t>(0, p - args.window + 1) : 0;
    }
    int64_t end_key(int64_t p, int64_t keys) const {
        if (args.causal) return std::min(p + 1, keys);
        return args.window ? std::min(p + args.window, keys) : keys;
    }

    // Where keys or values [first, first + count) of an item are.
    void locate_keys(const Item& item, int64_t first, int64_t count, const T** rows) const {
        locate(item, (const T*)args.k + item.kv_head * args.k_head, args.k_block, args.k_token,
               first, count, rows);
    }
    void locate_values(const Item& item, int64_t first, int64_t count, const T** rows) const {
        locate(item, (const T*)args.v + item.kv_head * args.v_head, args.v_block, args.v_token,
               first, count, rows);
    }
    void locate(const Item& item, const T* base, int64_t block, int64_t token, int64_t first,
                int64_t count, const T** rows) const {
        if (!args.blocks_row) {
            base += (((const int32_t*)args.starts_k)[item.sequence] + first) * token;
            for (int64_t j = 0; j < count; ++j, base += token) rows[j] = base;
            return;
        }
        auto table = (const int32_t*)args.blocks + item.sequence * args.blocks_row;
        table += first / args.block_size;
        int64_t within = first % args.block_size;
        for (int64_t j = 0; j < count; within = 0, ++table) {
            const T* at = base + *table * block + within * token;
            // To the end of the cache's block, rows are evenly apart.
            const int64_t end = std::min(count, j + args.block_size - within);
            for (; j < end; ++j, at += token) rows[j] = at;
        }
    }
    void locate_later(const Item& next, Prefetched<T>& keys, Prefetched<T>& values) const {
        keys.count = values.count = std::min(kBlock, next.k1 - next.k0);
        locate_keys(next, next.k0, keys.count, keys.rows);
        locate_values(next, next.k0, values.count, values.rows);
    }

    static INLINE Words load_words(const T* p, int64_t n) {
        if constexpr (kPer == 1)
            return n >= W ? (Words)load(p) : (Words)load(p, n);
        else
            return n >= W ? load_raw<Words>(p) : load_some<Words, 4>(p, n);
    }

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
                    x[i] = rows[i] ? load_words(rows[i] + u * kPer, n) : Words{};
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
        fetch(values, 0, kAhead, count, D);
        for (int64_t j = 0; j < padded(count); j += kPer) {
            fetch(values, j + kAhead, j + kAhead + kPer, count, D);
            later.fetch(kPer, D);
            const T* even = j < count ? values[j] : nullptr;
            const T* odd = kPer == 2 && j + 1 < count ? values[j + 1] : nullptr;
            for (int64_t p = 0; p < panels; ++p) {
                const int64_t n = D - p * W;
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

    // ALiBi and relative biases of one head, by offset key - query, in powers of two:
    // table[o - from] for o in [from, from + count).
    void fill_bias(int64_t head, int64_t from, int64_t count, float* table) const {
        auto slopes = (const float*)args.slopes, relative = (const float*)args.relative;
        const int64_t d = args.distance;
        for (int64_t i = 0; i < count; ++i) {
            const int64_t o = from + i;
            float x = slopes ? -slopes[head] * (float)std::abs(o) : 0.0f;
            if (relative) x += relative[head * (2 * d + 1) + std::clamp(o, -d, d) + d];
            table[i] = x * kLog2e;
        }
    }

    // Scores of panels [p0, p1) to powers, which `powers` gets as words; keys outside [lo, hi) become
    // 0. Returns what earlier sums are to be multiplied by.
    INLINE float softmax(Floats* scores, const float* bias, int64_t p0, int64_t p1, int64_t lo,
                         int64_t hi, uint32_t* powers, float& maximum, float& total) const {
        const float scale = (float)args.scale * kLog2e, lowest = -INFINITY;
        Floats top = splat(lowest);
        for (int64_t p = p0; p < p1; ++p) {
            Floats x = scores[p - p0] * splat(scale);
            if (bias) x += load(bias + p * W);
            if (p * W < lo || p * W + W > hi) {
                const Ints at = iota((int32_t)(p * W));
                x = (at >= splat((int32_t)lo)) & (at < splat((int32_t)hi)) ? x : splat(lowest);
            }
            scores[p - p0] = x;
            top = max(top, x);
        }
        const float before = maximum;
        maximum = std::max(maximum, largest(top));
        Floats sums = {};
        for (int64_t p = p0; p < p1; ++p) {
            Floats x = exp2(scores[p - p0] - splat(maximum));
            if (p * W < lo || p * W + W > hi) {
                const Ints at = iota((int32_t)(p * W));
                x = (at >= splat((int32_t)lo)) & (at < splat((int32_t)hi)) ? x : Floats{};
            }
            sums += x;
            if constexpr (kPer == 1)
                store_raw(powers + (p - p0) * W, x);
            else
                store_raw(powers + (p - p0) * W / 2, narrow(x));
        }
        const float factor = std::exp2(before - maximum);
        total = total * factor + sum(sums);
        return factor;
    }

    // next: the item that this thread will probably take next, or null. Its first keys and values
    // are prefetched: between two calls, weights evict everything else from the caches.
    void run(const Item& item, const Item* next, Partial* partials) const {
        const int64_t keys = num_keys(item.sequence), rows = item.count * group;
        const int64_t offset = keys - num_queries(item.sequence) + item.first;
        const bool biased = args.slopes || args.relative;
        const int64_t bias_row = item.count + kBlock + W;
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
        auto bias = scratch.take<float>(biased ? group * bias_row : 0);
        const T *key[kBlock], *value[kBlock];
        Prefetched<T> later_keys, later_values;
        load_queries(item, queries);
        std::fill_n(values, rows * panels, Floats{});
        std::fill_n(maxima, rows, -INFINITY);
        std::fill_n(sums, rows, 0.0f);

        for (int64_t b = item.k0; b < item.k1; b += kBlock) {
            const int64_t n = std::min(kBlock, item.k1 - b);
            locate_keys(item, b, n, key);
            locate_values(item, b, n, value);
            if (next && b + kBlock >= item.k1) locate_later(*next, later_keys, later_values);
            pack_keys(key, n, later_keys, packed_k);
            pack_values(value, n, later_values, packed_v);
            const int64_t last = offset + item.count - 1;
            for (int64_t g = 0; biased && g < group; ++g)
                fill_bias(item.kv_head * group + g, b - last, bias_row, bias + g * bias_row);
            for (int64_t r = 0; r < rows; r += step) {
                const int64_t count = std::min(step, rows - r);
                int64_t lo[kMostRows], hi[kMostRows], least = n, most = 0;
                for (int64_t i = 0; i < count; ++i) {
                    const int64_t p = offset + (r + i) % item.count;
                    lo[i] = std::max<int64_t>(first_key(p) - b, 0);
                    hi[i] = std::min(end_key(p, keys) - b, n);
                    if (lo[i] < hi[i]) least = std::min(least, lo[i]), most = std::max(most, hi[i]);
                }
                if (least >= most) continue;
                const int64_t wide = even * W, p0 = least / wide * even;
                const int64_t p1 = (most + wide - 1) / wide * even;
                multiply<Policy>(tiles, tiled, count, queries + r * words, words,
                                 packed_k + p0 * words * W, words * W, words, scores, kBlock / W,
                                 p1 - p0, false);
                for (int64_t i = 0; i < count; ++i) {
                    uint32_t* row = powers + i * kBlock / kPer;
                    if (lo[i] >= hi[i]) {
                        std::fill_n(row, (p1 - p0) * W / kPer, 0u);
                        continue;
                    }
                    const int64_t g = (r + i) / item.count, q = (r + i) % item.count;
                    const float* table = biased ? bias + g * bias_row + item.count - 1 - q : nullptr;
                    const float factor = softmax(scores + i * kBlock / W, table, p0, p1, lo[i],
                                                 hi[i], row, maxima[r + i], sums[r + i]);
                    if (factor != 1.0f)
                        for (int64_t p = 0; p < panels; ++p)
                            values[(r + i) * panels + p] *= splat(factor);
                }
                multiply<Policy>(tiles, tiled, count, powers, kBlock / kPer,
                                 packed_v + p0 * W / kPer * W, kBlock / kPer * W,
                                 (p1 - p0) * W / kPer, values + r * panels, panels, panels, true);
            }
        }
        finish(item, partials, maxima, sums, values);
    }

    // Stores an item's rows, or what the other parts of its keys are to be added to.
    void finish(const Item& item, Partial* partials, const float* maxima, const float* sums,
                const Floats* values) const {
        if (item.part < 0) return write(item, values, sums);
        const int64_t rows = item.count * group;
        Partial& partial = partials[item.part];
        std::copy_n(maxima, rows, partial.maxima);
        std::copy_n(sums, rows, partial.sums);
        std::copy_n(values, rows * panels, partial.values);
    }

    void load_queries(const Item& item, uint32_t* out) const {
        for (int64_t g = 0; g < group; ++g)
            for (int64_t i = 0; i < item.count; ++i, out += words) {
                const int64_t token = start_q(item.sequence) + item.first + i;
                const T* q = (const T*)args.q + token * args.q_token +
                             (item.kv_head * group + g) * args.q_head;
                for (int64_t u = 0; u < words; u += W) {
                    const int64_t n = std::min<int64_t>(W, words - u);
                    Words x = load_words(q + u * kPer, n);
                    std::memcpy(out + u, &x, n * 4);
                }
            }
    }

    // Divides by the sums (a row that saw no key is 0) and stores.
    void write(const Item& item, const Floats* values, const float* sums) const {
        for (int64_t g = 0; g < group; ++g)
            for (int64_t i = 0; i < item.count; ++i, values += panels, ++sums) {
                const int64_t token = start_q(item.sequence) + item.first + i;
                T* out = (T*)args.out +
                         (token * args.num_heads + item.kv_head * group + g) * args.head_dim;
                const Floats inverse = splat(*sums == 0 ? 0.0f : 1.0f / *sums);
                for (int64_t p = 0; p < panels; ++p) {
                    const int64_t n = D - p * W;
                    if (n >= W)
                        store(out + p * W, values[p] * inverse);
                    else
                        store(out + p * W, values[p] * inverse, n);
                }
            }
    }

    // Adds the parts of an item's keys up, in the first one's place, and stores the rows.
    void merge(const Item& item, Partial* parts, int64_t num_parts) const {
        const int64_t rows = item.count * group;
        for (int64_t r = 0; r < rows; ++r) {
            float maximum = -INFINITY;
            for (int64_t s = 0; s < num_parts; ++s)
                maximum = std::max(maximum, parts[s].maxima[r]);
            if (maximum == -INFINITY) continue;
            for (int64_t s = 0; s < num_parts; ++s) {
                const float factor = std::exp2(parts[s].maxima[r] - maximum);
                parts[0].sums[r] = parts[s].sums[r] * factor + (s ? parts[0].sums[r] : 0.0f);
                for (int64_t p = 0; p < panels; ++p) {
                    Floats& total = parts[0].values[r * panels + p];
                    const Floats part = parts[s].values[r * panels + p] * splat(factor);
                    total = s ? total + part : part;
                }
            }
        }
        write(item, parts[0].values, parts[0].sums);
    }
};

}  // namespace kernels
