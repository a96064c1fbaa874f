// The gated delta rule over the tokens of a chunk at once, as matrix products on AMX tiles. With the
// rows k, q, v, u of its tokens as matrices, S as it was before them, G_i the product of the decays up
// to token i and D_ij of those after token j up to token i (j <= i):
//
//     (I + L) U = beta (V - G K S)     L_ij = beta_i D_ij (k_i . k_j) for j < i
//     out = G Q S + P U                P_ij = D_ij (q_i . k_j) for j <= i
//     S = G_last S + K^T (D_last U)
//
// D is multiplied up row by row: as quotients of G, it would lose all digits after a token that forgets
// everything. (I + L) U is solved by substitution, a few rows at a time. Tiles multiply bfloat16, which
// keys and queries are; a float32 is the sum of three, so that products lose nothing either.
#pragma once

#include "gated_delta.h"
#include "gemm_amx.h"
#include "shuffle.h"

namespace kernels {

#if defined(__AMX_TILE__)

// c[R, V vectors] += a[R, count] b[count, V vectors]; rows of a are kChunk floats.
template <int R, int V>
INLINE void add_product(Floats (&c)[R][V], const float* a, const Floats* b, int64_t count) {
    for (int64_t i = 0; i < count; ++i)
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
            for (int v = 0; v < V; ++v) c[r][v] += splat(a[r * kChunk + i]) * b[i * V + v];
}

class Chunk {
  public:
    Chunk(const Tokens<bf16>& tokens, Scratch& scratch)
        : x_(tokens), words_(x_.rows / 2), keys_(scratch.take<uint32_t>(kChunk * words_)),
          queries_(scratch.take<uint32_t>(kChunk * words_)),
          columns_(scratch.take<Words>(kVectors * words_)),
          transposed_(scratch.take<uint16_t>(x_.rows * kChunk)),
          known_(scratch.take<float>(kChunk * kChunk)),
          products_(scratch.take<float>(kChunk * kChunk)),
          parts_(scratch.take<Words>(kParts * 2 * std::max(words_, kChunk / 2))),
          sums_(scratch.take<Floats>(2 * kChunk * 2)), u_(scratch.take<Floats>(kChunk * 2)),
          totals_(scratch.take<float>(kChunk)), rest_(scratch.take<float>(kChunk)) {}

    // Whether there are tiles for heads of this size.
    static bool fits(const GatedDeltaArgs& a) {
        return a.is_bf16 && a.key_dim % (2 * kTileWords) == 0 && has_tiles();
    }

    // Tokens whose gates `tokens` has read.
    void advance(const Columns& state) {
        read_rows(x_.a.k, x_.a.k_token, x_.a.k_head, keys_);
        read_rows(x_.a.q, x_.a.q_token, x_.a.q_head, queries_);
        transpose_keys();
        for (int64_t i = 0; i < x_.count; i += kMostRows) {
            const int64_t panels = (i + kMostRows) / W;
            multiply_rows(keys_, i, columns_, words_ * W, W, known_ + i * kChunk, kChunk, panels);
            multiply_rows(queries_, i, columns_, words_ * W, W, products_ + i * kChunk, kChunk, panels);
        }
        decay_products();
        state.for_pairs([&](Floats* s, int64_t vector, auto count) {
            columns<decltype(count)::value>(s, vector * W);
        });
    }

  private:
    static constexpr int R = kTileRows, kParts = 3;
    static constexpr int64_t kVectors = kChunk / W;

    void read_rows(int64_t from, int64_t token, int64_t head, uint32_t* to) const {
        const int64_t key_head = x_.head / (x_.a.num_v_heads / x_.a.num_k_heads);
        const bf16* row = (const bf16*)from + x_.first * token + key_head * head;
        for (int64_t t = 0; t < x_.count; ++t, row += token, to += words_)
            std::memcpy(to, row, words_ * sizeof *to);
        std::memset(to, 0, (kChunk - x_.count) * words_ * sizeof *to);
    }

    // The keys as panels of tokens (columns_), and as rows of a matrix whose columns are tokens.
    void transpose_keys() const {
        for (int64_t j = 0; j < kChunk; j += W)
            for (int64_t i = 0; i < words_; i += W) {
                Words block[W];
                for (int64_t t = 0; t < W; ++t)
                    block[t] = load_raw<Words>(keys_ + (j + t) * words_ + i);
                transpose(block);
                for (int64_t t = 0; t < W; ++t) {
                    columns_[j / W * words_ + i + t] = block[t];
                    uint16_t* const to = transposed_ + 2 * (i + t) * kChunk + j;
                    store_raw(to, __builtin_convertvector(block[t] & 0xffff, Halves));
                    store_raw(to + kChunk, __builtin_convertvector(block[t] >> 16, Halves));
                }
            }
    }

    // kMostRows rows of a from row i on, times panels of W columns.
    void multiply_rows(const uint32_t* a, int64_t i, const Words* b, int64_t panel, int64_t stride,
                       float* c, int64_t ldc, int64_t panels) {
        multiply_tiles<TilesBfloat16>(tiles_, kMostRows, a + i * words_, words_,
                                      (const uint32_t*)b, panel, stride, words_, c, ldc, panels,
                                      false);
    }

    // L and P, G and D_last. What is above the diagonal is not read.
    void decay_products() const {
        alignas(64) float decays[kChunk] = {};  // a row of D
        float total = 1;
        for (int64_t i = 0; i < x_.count; ++i) {
            const Floats decay = splat(x_.decays[i]), beta = splat(x_.betas[i]);
            totals_[i] = total *= x_.decays[i];
            for (int64_t j = 0; j <= i; j += W) store(decays + j, load(decays + j) * decay);
            decays[i] = 1;
            for (int64_t j = 0; j <= i; j += W) {
                const Floats row = load(decays + j);
                float *const known = known_ + i * kChunk + j, *const product = products_ + i * kChunk + j;
                store(known, load(known) * row * beta), store(product, load(product) * row);
            }
        }
        std::memcpy(rest_, decays, sizeof decays);
    }

    // Writes pairs of rows as the words of three parts: (parts, pairs, V vectors).
    template <int V>
    void split(const Floats* rows, int64_t pairs) const {
        for (int64_t i = 0; i < pairs; ++i)
            for (int v = 0; v < V; ++v) {
                Floats even = rows[2 * i * V + v], odd = rows[(2 * i + 1) * V + v];
                for (int part = 0; part < kParts; ++part) {
                    const Words low = (Words)even & 0xffff0000u, high = (Words)odd & 0xffff0000u;
                    parts_[(part * pairs + i) * V + v] = low >> 16 | high;
                    even -= (Floats)low, odd -= (Floats)high;
                }
            }
    }

    // c (rows, V vectors) (+)= a (rows, pairs) times what `split` has written, the smallest part first.
    template <int V>
    void multiply_parts(const uint32_t* a, int64_t pairs, int64_t rows, Floats* c, bool adds) {
        for (int64_t i = 0; i < rows; i += kMostRows)
            for (int part = kParts; part-- > 0;)
                multiply_tiles<TilesBfloat16>(
                    tiles_, kMostRows, a + i * pairs, pairs,
                    (const uint32_t*)(parts_ + part * pairs * V), W, V * W, pairs, c + i * V, V * W, V,
                    adds || part < kParts - 1);
    }

    // Two vectors of columns, or one: the rows of U and of the output, then S.
    template <int V>
    void columns(Floats* s, int64_t column) {
        const int64_t rows = x_.rows, count = (x_.count + kMostRows - 1) / kMostRows * kMostRows;
        Floats *const from_keys = sums_, *const from_queries = sums_ + kChunk * V;
        split<V>(s, words_);
        multiply_parts<V>(keys_, words_, count, from_keys, false);
        multiply_parts<V>(queries_, words_, count, from_queries, false);
        for (int64_t i = 0; i < x_.count; i += R) {
            Floats u[R][V] = {}, found[R][V];
            add_product<R, V>(u, known_ + i * kChunk, u_, i);
            solve(i, column, u, from_keys + i * V);
            std::memcpy((void*)(u_ + i * V), u, sizeof u);
            for (int r = 0; r < R; ++r)
                for (int v = 0; v < V; ++v)
                    found[r][v] = from_queries[(i + r) * V + v] * splat(totals_[i + r]);
            add_product<R, V>(found, products_ + i * kChunk, u_, i);
            write_rows(i, column, u, found);
        }
        for (int64_t i = 0; i < kChunk; ++i)
            for (int v = 0; v < V; ++v)
                u_[i * V + v] = i < x_.count ? u_[i * V + v] * splat(rest_[i]) : Floats{};
        const Floats whole = splat(totals_[x_.count - 1]);
        for (int64_t r = 0; r < rows * V; ++r) s[r] *= whole;
        split<V>(u_, kChunk / 2);
        multiply_parts<V>((const uint32_t*)transposed_, kChunk / 2, rows, s, true);
    }

    // Rows i to i + R of U in place of L U of the rows before them. known: K S.
    template <int V>
    INLINE void solve(int64_t i, int64_t column, Floats (&u)[R][V], const Floats* known) const {
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            if (i + r >= x_.count) return;
            const Floats total = splat(totals_[i + r]), beta = splat(x_.betas[i + r]);
#pragma GCC unroll 2
            for (int v = 0; v < V; ++v) {
                const int64_t n = std::min<int64_t>(x_.a.value_dim - column - v * W, W);
                const Floats value = read(x_.value(i + r) + column + v * W, n);
                u[r][v] = beta * (value - total * known[r * V + v]) - u[r][v];
#pragma GCC unroll 8
                for (int j = 0; j < r; ++j)
                    u[r][v] -= splat(known_[(i + r) * kChunk + i + j]) * u[j][v];
            }
        }
    }

    // Adds P U of the tile's own rows, and stores.
    template <int V>
    INLINE void write_rows(int64_t i, int64_t column, const Floats (&u)[R][V],
                           Floats (&found)[R][V]) const {
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            if (i + r >= x_.count) return;
#pragma GCC unroll 2
            for (int v = 0; v < V; ++v) {
#pragma GCC unroll 8
                for (int j = 0; j <= r; ++j)
                    found[r][v] += splat(products_[(i + r) * kChunk + i + j]) * u[j][v];
                const int64_t n = std::min<int64_t>(x_.a.value_dim - column - v * W, W);
                write(x_.out(i + r) + column + v * W, found[r][v], n);
            }
        }
    }

    const Tokens<bf16>& x_;
    const int64_t words_;
    uint32_t *const keys_, *const queries_;
    Words* const columns_;
    uint16_t* const transposed_;
    float *const known_, *const products_;
    Words* const parts_;
    Floats *const sums_, *const u_;
    float *const totals_, *const rest_;
    Tiles tiles_;
};

#endif

}  // namespace kernels
