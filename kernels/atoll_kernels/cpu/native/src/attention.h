// What both attention kernels share: the arguments, where keys and values are, the softmax of a block
// of scores, and how rows are stored. Rows keep a running maximum and sum over the blocks of keys
// (online softmax, Milakov & Gimelshein 2018).
#pragma once

#include <cmath>
#include <limits>

#include "gemm_amx.h"
#include "prefetch.h"
#include "scratch.h"
#include "shuffle.h"

namespace kernels {

constexpr int64_t kMaxRows = 256;  // rows of an item: queries times heads of a group

// Filled by atoll_kernels/cpu/attention.py: the same fields in the same order. Strides in elements.
struct AttentionArgs {
    int64_t is_bf16, threads, q, k, v, out, starts_q, starts_k, blocks, slopes, relative, sinks;
    int64_t distance_keys, distance_queries, distance_rows;  // of disentangled attention, or 0
    int64_t q_token, q_head, k_block, k_token, k_head, v_block, v_token, v_head;
    int64_t blocks_row, block_size;  // blocks_row 0: keys are packed, starts_k their bounds
    int64_t num_seqs, num_heads, num_kv_heads, head_dim, value_dim;
    int64_t causal, window, distance;  // distance: the largest in `relative` or `distance_rows`
    double scale, softcap;  // softcap 0: none
};

// Queries [first, first + count) of a sequence against keys [k0, k1), for the query heads that share
// a key-value head. part < 0: no other item has these rows.
struct Item {
    int32_t sequence, kv_head;
    int64_t first, count, k0, k1, part;
    int64_t cost() const { return count * (k1 - k0); }
};

// The result of an item that has only some of its rows' keys: per row a maximum, a sum, and values.
struct Partial {
    float *maxima, *sums;
    Floats* values;
};

struct Range {
    int64_t first, end;
    bool is_empty() const { return first >= end; }
    void include(Range other) {
        first = std::min(first, other.first), end = std::max(end, other.end);
    }
};

template <class T, class Policy>
struct Attention {
    static constexpr int kPer = Policy::kPerWord;
    const AttentionArgs& args;
    const int64_t D = args.head_dim, words = (D + kPer - 1) / kPer;
    // Of values and of rows of the output.
    const int64_t value_dim = args.value_dim, value_words = (value_dim + kPer - 1) / kPer;
    const int64_t panels = (value_dim + W - 1) / W;
    const int64_t group = args.num_heads / args.num_kv_heads;
    const bool is_biased = args.slopes || args.relative, is_disentangled = args.distance_rows;

    int64_t vectors() const { return (words + W - 1) / W; }
    int64_t value_vectors() const { return (value_words + W - 1) / W; }
    int64_t num_queries(int64_t s) const { return start_q(s + 1) - start_q(s); }
    int64_t start_q(int64_t s) const { return ((const int32_t*)args.starts_q)[s]; }
    int64_t num_keys(int64_t s) const {
        auto starts = (const int32_t*)args.starts_k;
        return args.blocks_row ? starts[s] : starts[s + 1] - starts[s];
    }
    // The position of an item's first query.
    int64_t position(const Item& item) const {
        return num_keys(item.sequence) - num_queries(item.sequence) + item.first;
    }

    // Keys that a query at position p sees: [first_key(p), end_key(p, num_keys)).
    int64_t first_key(int64_t p) const {
        return args.window ? std::max<int64_t>(0, p - args.window + 1) : 0;
    }
    int64_t end_key(int64_t p, int64_t keys) const {
        if (args.causal) return std::min(p + 1, keys);
        return args.window ? std::min(p + args.window, keys) : keys;
    }
    // The same within the block of n keys that begins at b.
    INLINE Range visible(int64_t p, int64_t keys, int64_t b, int64_t n) const {
        return {std::max<int64_t>(first_key(p) - b, 0), std::min(end_key(p, keys) - b, n)};
    }

    // The addresses of an item's keys or values [first, first + count).
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
            // Rows are evenly spaced up to the end of the cache's block.
            const int64_t end = std::min(count, j + args.block_size - within);
            for (; j < end; ++j, at += token) rows[j] = at;
        }
    }
    void locate_next(const Item& next, Prefetched<T>& keys, Prefetched<T>& values) const {
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
    // (rows, words); rows are in the order of heads.
    void load_queries(const Item& item, uint32_t* out) const {
        for (int64_t g = 0; g < group; ++g)
            for (int64_t i = 0; i < item.count; ++i, out += words) {
                const int64_t token = start_q(item.sequence) + item.first + i;
                load_row((const T*)args.q + token * args.q_token +
                             (item.kv_head * group + g) * args.q_head,
                         out);
            }
    }
    void load_row(const T* row, uint32_t* out) const {
        for (int64_t u = 0; u < words; u += W) {
            const int64_t n = std::min<int64_t>(W, words - u);
            Words x = load_words(row + u * kPer, n);
            std::memcpy(out + u, &x, n * 4);
        }
    }

    // ALiBi and relative biases of an item's heads for a block at b, by offset key - query, as powers
    // of two. A row of the table is a head's; it begins at the offset of the last query.
    int64_t bias_row(const Item& item) const { return item.count + kBlock + W; }
    void fill_bias(const Item& item, int64_t b, float* table) const {
        auto slopes = (const float*)args.slopes, relative = (const float*)args.relative;
        const int64_t d = args.distance, first = b - (position(item) + item.count - 1);
        for (int64_t g = 0; g < group; ++g, table += bias_row(item)) {
            const int64_t head = item.kv_head * group + g;
            for (int64_t i = 0; i < bias_row(item); ++i) {
                const int64_t o = first + i;
                float x = slopes ? -slopes[head] * (float)std::abs(o) : 0.0f;
                if (relative) x += relative[head * (2 * d + 1) + std::clamp(o, -d, d) + d];
                table[i] = x * kLog2e;
            }
        }
    }
    // Where in that table the biases of row r are, or null.
    INLINE const float* bias_of(const Item& item, const float* table, int64_t r) const {
        const int64_t g = r / item.count, q = r % item.count;
        return is_biased ? table + g * bias_row(item) + item.count - 1 - q : nullptr;
    }

    // Turns the scores of panels [p0, p1) into softmax numerators, stored as words in `powers`; keys
    // that are not visible get 0. Returns the factor by which earlier sums must be multiplied.
    INLINE float softmax(Floats* scores, const float* bias, int64_t p0, int64_t p1, Range visible,
                         uint32_t* powers, float& maximum, float& total) const {
        const int64_t lo = visible.first, hi = visible.end;
        if (args.softcap) cap(scores, p1 - p0);
        const float scale = (float)(args.softcap ? args.softcap : args.scale) * kLog2e;
        const float lowest = -INFINITY;
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
        if (factor != 1.0f) total *= factor;  // apart from the sum: GCC fuses the two only sometimes
        total += sum(sums);
        return factor;
    }
    // tanh(score / softcap); softmax multiplies by the softcap instead of the scale.
    void cap(Floats* scores, int64_t count) const {
        const Floats scale = splat((float)(args.scale / args.softcap));
        for (int64_t i = 0; i < count; ++i) scores[i] = tanh(scores[i] * scale);
    }

    // Stores an item's rows, or keeps them to be merged with the other parts of their keys.
    void finish(const Item& item, Partial* partials, const float* maxima, const float* sums,
                const Floats* values) const {
        if (item.part < 0) return write(item, values, maxima, sums);
        const int64_t rows = item.count * group;
        Partial& partial = partials[item.part];
        std::copy_n(maxima, rows, partial.maxima);
        std::copy_n(sums, rows, partial.sums);
        std::copy_n(values, rows * panels, partial.values);
    }

    // Divides by the sums (a row without a visible key is 0), to which sinks are added, and stores.
    void write(const Item& item, const Floats* values, const float* maxima, const float* sums) const {
        for (int64_t g = 0; g < group; ++g)
            for (int64_t i = 0; i < item.count; ++i, values += panels, ++sums, ++maxima) {
                const int64_t token = start_q(item.sequence) + item.first + i;
                const int64_t head = item.kv_head * group + g;
                T* out = (T*)args.out + (token * args.num_heads + head) * value_dim;
                float total = *sums;
                if (args.sinks && total != 0)
                    total += std::exp2(((const float*)args.sinks)[head] * kLog2e - *maxima);
                const Floats inverse = splat(total == 0 ? 0.0f : 1.0f / total);
                for (int64_t p = 0; p < panels; ++p) {
                    const int64_t n = value_dim - p * W;
                    if (n >= W)
                        store(out + p * W, values[p] * inverse);
                    else
                        store(out + p * W, values[p] * inverse, n);
                }
            }
    }

    // Adds up the parts of an item's keys, in place of the first one, and stores the rows.
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
            parts[0].maxima[r] = maximum;
        }
        write(item, parts[0].values, parts[0].maxima, parts[0].sums);
    }
};

}  // namespace kernels
