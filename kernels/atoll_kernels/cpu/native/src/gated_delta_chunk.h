// The gated delta rule over the tokens of a chunk at once, as matrix products. With the rows k, q, v, u
// of its tokens as matrices, S as it was before them, G_i the product of the decays up to token i and
// D_ij of those after token j up to token i (j <= i):
//
//     (I + L) U = beta (V - G K S)     L_ij = beta_i D_ij (k_i . k_j) for j < i
//     out = G Q S + P U                P_ij = D_ij (q_i . k_j) for j <= i
//     S = G_last S + K^T (D_last U)
//
// D is multiplied up row by row: as quotients of G, it would lose all digits after a token that forgets
// everything. (I + L) U is solved by substitution, a few rows at a time.
#pragma once

#include "gated_delta.h"
#include "shuffle.h"

namespace kernels {

// c[R, V vectors] += a[R, count] b[count, V vectors]; row, step: between a's elements.
template <int R, int V>
INLINE void add_product(Floats (&c)[R][V], const float* a, int64_t row, int64_t step,
                        const Floats* b, int64_t count) {
    for (int64_t i = 0; i < count; ++i)
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
            for (int v = 0; v < V; ++v) c[r][v] += splat(a[r * row + i * step]) * b[i * V + v];
}

template <class T>
class Chunk {
  public:
    Chunk(const Tokens<T>& tokens, Scratch& scratch)
        : x_(tokens), transposed_(scratch.take<Floats>(kVectors * x_.rows)),
          known_(scratch.take<Floats>(kChunk * kVectors)),
          products_(scratch.take<Floats>(kChunk * kVectors)), u_(scratch.take<Floats>(kChunk * 2)),
          totals_(scratch.take<float>(kChunk)), rest_(scratch.take<float>(kChunk)) {}

    // What `tokens` has read.
    void advance(const Columns& state) {
        multiply_tokens();
        decay_products();
        state.for_pairs([&](Floats* s, int64_t vector, auto count) {
            columns<decltype(count)::value>(s, vector);
        });
    }

  private:
    static constexpr int R = kTileRows;
    static constexpr int64_t kVectors = kChunk / W;

    // K K^T and Q K^T in known_ and products_, in whole tiles up to the diagonal.
    void multiply_tokens() {
        const int64_t rows = x_.rows;
        for (int64_t j = 0; j < x_.count; j += W)
            for (int64_t i = 0; i < rows; i += W) {
                Words block[W];
                for (int64_t t = 0; t < W; ++t)
                    block[t] = j + t < x_.count ? load_raw<Words>(x_.keys + (j + t) * rows + i)
                                                : Words{};
                transpose(block);
                for (int64_t t = 0; t < W; ++t)
                    transposed_[j / W * rows + i + t] = (Floats)block[t];
            }
        for (int64_t i = 0; i < x_.count; i += R)
            for (int64_t j = 0; j < (i + R + W - 1) / W; ++j) {
                multiply_rows(x_.keys + i * rows, j, known_ + i * kVectors);
                multiply_rows(x_.queries + i * rows, j, products_ + i * kVectors);
            }
    }
    void multiply_rows(const float* a, int64_t vector, Floats* to) const {
        Floats sums[R][1] = {};
        add_product<R, 1>(sums, a, x_.rows, 1, transposed_ + vector * x_.rows, x_.rows);
        for (int r = 0; r < R; ++r) to[r * kVectors + vector] = sums[r][0];
    }

    // L and P from them, G and D_last. Above the diagonal there is nothing that is read.
    void decay_products() {
        alignas(64) float decays[kChunk] = {};  // a row of D
        float total = 1;
        for (int64_t i = 0; i < x_.count; ++i) {
            const Floats decay = splat(x_.decays[i]), beta = splat(x_.betas[i]);
            totals_[i] = total *= x_.decays[i];
            for (int64_t j = 0; j <= i / W; ++j) store(decays + j * W, load(decays + j * W) * decay);
            decays[i] = 1;
            for (int64_t j = 0; j <= i / W; ++j) {
                const Floats row = load(decays + j * W);
                known_[i * kVectors + j] *= row * beta, products_[i * kVectors + j] *= row;
            }
        }
        std::memcpy(rest_, decays, sizeof decays);
    }

    // Two vectors of columns, or one: the rows of U and of the output tile by tile, then S.
    template <int V>
    void columns(Floats* s, int64_t vector) {
        const int64_t rows = x_.rows, column = vector * W;
        for (int64_t i = 0; i < x_.count; i += R) {
            Floats u[R][V] = {}, before[R][V] = {}, found[R][V] = {};
            add_product<R, V>(u, x_.keys + i * rows, rows, 1, s, rows);
            add_product<R, V>(before, at(known_, i, 0), kChunk, 1, u_, i);
            add_product<R, V>(found, x_.queries + i * rows, rows, 1, s, rows);
            solve(i, column, u, before);
            for (int r = 0; r < R; ++r)
                for (int v = 0; v < V; ++v)
                    u_[(i + r) * V + v] = u[r][v], found[r][v] *= splat(totals_[i + r]);
            add_product<R, V>(found, at(products_, i, 0), kChunk, 1, u_, i);
            write_rows(i, column, u, found);
        }
        for (int64_t i = 0; i < x_.count; ++i)
            for (int v = 0; v < V; ++v) u_[i * V + v] *= splat(rest_[i]);
        const Floats whole = splat(totals_[x_.count - 1]);
        for (int64_t r = 0; r < rows; r += R) {
            Floats sums[R][V];
            for (int i = 0; i < R; ++i)
                for (int v = 0; v < V; ++v) sums[i][v] = s[(r + i) * V + v] * whole;
            add_product<R, V>(sums, x_.keys + r, 1, rows, u_, x_.count);
            std::memcpy((void*)(s + r * V), sums, sizeof sums);
        }
    }

    // Rows i to i + R of U in place of K S. before: L U of the rows before them.
    template <int V>
    INLINE void solve(int64_t i, int64_t column, Floats (&u)[R][V],
                      const Floats (&before)[R][V]) const {
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            const bool is_token = i + r < x_.count;
            const Floats total = splat(is_token ? totals_[i + r] : 0.0f);
            const Floats beta = splat(is_token ? x_.betas[i + r] : 0.0f);
#pragma GCC unroll 2
            for (int v = 0; v < V; ++v) {
                const int64_t n = std::min<int64_t>(x_.a.value_dim - column - v * W, W);
                const Floats value =
                    is_token ? read(x_.value(i + r) + column + v * W, n) : Floats{};
                u[r][v] = beta * (value - total * u[r][v]) - before[r][v];
#pragma GCC unroll 8
                for (int j = 0; j < r; ++j) u[r][v] -= splat(*at(known_, i + r, i + j)) * u[j][v];
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
                    found[r][v] += splat(*at(products_, i + r, i + j)) * u[j][v];
                const int64_t n = std::min<int64_t>(x_.a.value_dim - column - v * W, W);
                write(x_.out(i + r) + column + v * W, found[r][v], n);
            }
        }
    }

    // Element (i, j) of a product of the chunk's tokens.
    static INLINE const float* at(const Floats* products, int64_t i, int64_t j) {
        return (const float*)products + i * kChunk + j;
    }

    const Tokens<T>& x_;
    Floats *const transposed_, *const known_, *const products_, *const u_;
    float *const totals_, *const rest_;
};

}  // namespace kernels
