// What disentangled attention adds to scores (He et al. 2021): a query times the key of its distance to
// the key, and a key times the query of that distance. Words are multiplied with all rows of a table
// that the pairs of a block can need, and each pair then takes the product with its own row.
#pragma once

#include "attention.h"

namespace kernels {

template <class T, class Policy>
class Distances {
    using Shared = Attention<T, Policy>;
    static constexpr int kPer = Shared::kPer;

  public:
    // pack(rows, count, out): as BlockedAttention::pack_keys. step: rows of a product; wide: columns.
    template <class Pack>
    Distances(const Shared& a, const Item& item, Scratch& scratch, Tiles& tiles, bool tiled,
              int64_t step, int64_t wide, const Pack& pack)
        : a(a), item(item), tiles(tiles), tiled(tiled), step(step), wide(wide),
          first(a.position(item)), head(item.kv_head) {
        const int64_t low = item.k0 - (first + item.count - 1), high = item.k1 + wide - first;
        rows = {row(high), row(low) + 1};
        key_width = widest(low, high, kBlock + step), query_width = widest(low, high, item.count + step);
        const int64_t size = (rows.end - rows.first + kBlock - 1) / kBlock * kBlock * a.words;
        if (a.args.distance_keys) {
            packed_keys = scratch.take<uint32_t>(size);
            by_query = scratch.take<Floats>(step * key_width);
            pack_rows((const T*)a.args.distance_keys, pack, packed_keys);
        }
        if (a.args.distance_queries) {
            packed_queries = scratch.take<uint32_t>(size);
            by_key = scratch.take<Floats>(kBlock * query_width);
            words_of_keys = scratch.take<uint32_t>(kBlock * a.words + W);
            places = scratch.take<int32_t>(kBlock);
            pack_rows((const T*)a.args.distance_queries, pack, packed_queries);
        }
        row_of = scratch.take<int32_t>(item.count + kBlock + W);
        terms = scratch.take<float>(kBlock);
    }

    // Begins the block of n keys at b.
    void begin(const T* const* keys, int64_t b, int64_t n) {
        block = b, end = (n + wide - 1) / wide * wide;
        const int64_t last = first + item.count - 1;
        for (int64_t i = 0; i < item.count + kBlock + W; ++i) row_of[i] = (int32_t)row(b - last + i);
        if (!packed_queries) return;
        for (int64_t j = 0; j < n; ++j) a.load_row(keys[j], words_of_keys + j * a.words);
        std::memset(words_of_keys + n * a.words, 0, (end - n) * a.words * 4);
        for (int64_t j = 0; j < end; j += step) {
            const int64_t count = std::min(step, end - j);
            const int64_t column = product(words_of_keys + j * a.words, count, packed_queries, b + j - last,
                                           b + j + count - 1 - first, by_key + j * query_width, query_width);
            for (int64_t i = j; i < j + count; ++i)
                places[i] = (int32_t)(i * query_width * W - column);
        }
    }

    // Begins rows [r, r + count) of the item, whose queries these are.
    void begin_rows(const uint32_t* queries, int64_t r, int64_t count) {
        if (packed_keys)
            key_column = product(queries, count, packed_keys, block - (first + r + count - 1),
                                 block + end - 1 - (first + r), by_query, key_width);
    }

    // What is added to the scores of row r, the i-th of those that were begun, as powers of two.
    const float* of(int64_t r, int64_t i) {
        const int32_t* at = row_of + item.count - 1 - r;
        const Floats scale = splat((float)a.args.scale * kLog2e);
        const Ints column = splat((int32_t)key_column);
        for (int64_t j = 0; j < end; j += W) {
            const Ints found = load_raw<Ints>(at + j);
            Floats x = {};
            if (packed_keys) x += gather((const float*)(by_query + i * key_width), found - column);
            if (packed_queries) x += gather((const float*)by_key, found + load_raw<Ints>(places + j));
            store(terms + j, x * scale);
        }
        return terms;
    }

  private:
    const Shared& a;
    const Item& item;
    Tiles& tiles;
    const bool tiled;
    const int64_t step, wide, first, head;  // first: the position of the first query
    Range rows;  // of the tables, which this item needs
    int64_t block = 0, end = 0, key_column = 0;
    int64_t key_width, query_width;  // vectors in a row of the products
    uint32_t *packed_keys = nullptr, *packed_queries = nullptr, *words_of_keys = nullptr;
    Floats *by_query = nullptr, *by_key = nullptr;
    int32_t *places = nullptr, *row_of;
    float* terms;

    // The tables' row for an offset key - query; it never increases with the offset.
    INLINE int64_t row(int64_t offset) const {
        const int64_t d = a.args.distance;
        return ((const int32_t*)a.args.distance_rows)[std::clamp(offset, -d, d) + d];
    }
    // Vectors of a product's row for any `span` adjacent offsets.
    int64_t widest(int64_t low, int64_t high, int64_t span) const {
        int64_t most = 0;
        for (int64_t o = low; o <= high; ++o) most = std::max(most, row(o) - row(o + span));
        return (most / wide + 2) * wide / W;
    }
    template <class Pack>
    void pack_rows(const T* table, const Pack& pack, uint32_t* out) const {
        const T* found[kBlock];
        for (int64_t r = rows.first; r < rows.end; r += kBlock, out += kBlock * a.words) {
            const int64_t count = std::min(kBlock, rows.end - r);
            for (int64_t i = 0; i < count; ++i)
                found[i] = table + ((r + i) * a.args.num_heads + head) * a.D;
            pack(found, count, out);
        }
    }
    // Rows of words times the rows of a table for offsets [low, high]; the table's row of column 0.
    int64_t product(const uint32_t* x, int64_t count, const uint32_t* packed, int64_t low, int64_t high,
                    Floats* out, int64_t width) const {
        const int64_t from = (row(high) - rows.first) / wide, to = (row(low) - rows.first) / wide + 1;
        multiply<Policy>(tiles, tiled, count, x, a.words, packed + from * wide * a.words, a.words * W,
                         a.words, out, width, (to - from) * wide / W, false);
        return rows.first + from * wide;
    }
};

}  // namespace kernels
