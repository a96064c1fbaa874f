// The gated delta rule (Yang et al. 2025, arXiv 2412.06464) of one head: its arguments, the tokens of a
// chunk, and the copy of a state. With S (key_dim, value_dim), of a token:
//
//     S = decay S;  u = beta (v - S^T k);  S = S + k u^T;  out = S^T q
#pragma once

#include <cmath>

#include "recurrent.h"
#include "row_loops.h"
#include "scratch.h"

namespace kernels {

// Filled by atoll_kernels/cpu/recurrent.py: the same fields in the same order. Strides in elements;
// log_decay and beta are (tokens, num_v_heads) floats. state: (slots, num_v_heads, key_dim,
// value_dim), of state_kind, or 0.
struct GatedDeltaArgs {
    int64_t is_bf16, threads, q, k, v, log_decay, beta, state, out;
    Past past;
    int64_t q_token, q_head, k_token, k_head, v_token, v_head, decay_token, beta_token, state_slot;
    int64_t num_seqs, num_k_heads, num_v_heads, key_dim, value_dim, state_kind;
};

constexpr int64_t kChunk = 64;  // tokens that are processed together

// Some tokens of one head. keys, queries: (tokens, rows) floats, zero from key_dim on. products: of a
// token's key and query.
template <class T>
struct Tokens {
    const GatedDeltaArgs& a;
    const int64_t head, rows = (a.key_dim + W - 1) / W * W;
    float *keys, *queries, *decays, *betas, *products;
    int64_t first = 0, count = 0;

    Tokens(const GatedDeltaArgs& args, int64_t head, Scratch& scratch)
        : a(args), head(head), keys(scratch.take<float>(kChunk * rows)),
          queries(scratch.take<float>(kChunk * rows)), decays(scratch.take<float>(kChunk)),
          betas(scratch.take<float>(kChunk)), products(scratch.take<float>(kChunk)) {}

    void read_gates(int64_t first_token, int64_t num_tokens) {
        first = first_token, count = num_tokens;
        for (int64_t t = 0; t < count; ++t) {
            const int64_t token = first + t;
            decays[t] = std::exp(((const float*)a.log_decay)[token * a.decay_token + head]);
            betas[t] = ((const float*)a.beta)[token * a.beta_token + head];
        }
    }
    void read_rows() {
        const int64_t key_head = head / (a.num_v_heads / a.num_k_heads);
        const T* key = (const T*)a.k + first * a.k_token + key_head * a.k_head;
        const T* query = (const T*)a.q + first * a.q_token + key_head * a.q_head;
        for (int64_t t = 0; t < count; ++t, key += a.k_token, query += a.q_token) {
            Floats product = {};
            // Whole vectors: what `read` gives beyond the last element is zero.
            for_vectors(a.key_dim, [&](int64_t i, auto n) {
                const Floats x = ::kernels::read(key + i, n), y = ::kernels::read(query + i, n);
                store(keys + t * rows + i, x), store(queries + t * rows + i, y);
                product += x * y;
            });
            products[t] = sum(product);
        }
    }
    const T* value(int64_t t) const {
        return (const T*)a.v + (first + t) * a.v_token + head * a.v_head;
    }
    T* out(int64_t t) const {
        return (T*)a.out + ((first + t) * a.num_v_heads + head) * a.value_dim;
    }

    // Of V vectors of columns from `column` on: the output of token t, and the new u in `known`.
    // known: S^T k; found: S^T q, of the state before the token. n: columns that there are.
    template <int V>
    INLINE void finish(int64_t t, int64_t column, int64_t n, Floats (&known)[V],
                       const Floats (&found)[V]) const {
        const Floats decay = splat(decays[t]), beta = splat(betas[t]);
        const T* const v = value(t) + column;
        T* const to = out(t) + column;
#pragma GCC unroll 8
        for (int i = 0; i < V; ++i) {
            const int64_t left = std::min<int64_t>(n - i * W, W);
            known[i] = beta * (::kernels::read(v + i * W, left) - decay * known[i]);
            write(to + i * W, decay * found[i] + splat(products[t]) * known[i], left);
        }
    }
};

// A copy of S: (pairs of vectors of columns, rows, vectors of the pair). A pair stays in L1.
struct Columns {
    const int64_t key_dim, width, rows, vectors;
    Floats* const s;

    template <class T>
    Columns(const Tokens<T>& x, Scratch& scratch)
        : key_dim(x.a.key_dim), width(x.a.value_dim), rows(x.rows), vectors((width + W - 1) / W),
          s(scratch.take<Floats>(vectors * rows)) {}

    void clear() { std::memset((void*)s, 0, vectors * rows * sizeof(Floats)); }
    template <class S>
    void load_from(const S* state) {
        clear();
        copy([&](Floats& x, int64_t at, auto n) INLINED { x = read(state + at, n); });
    }
    template <class S>
    void store_to(S* state) const {
        copy([&](const Floats& x, int64_t at, auto n) INLINED { write(state + at, x, n); });
    }
    // Calls body(pair, first vector, number of vectors) for all pairs; the number is a constant.
    template <class Body>
    INLINE void for_pairs(const Body& body) const {
        int64_t v = 0;
        for (; v + 2 <= vectors; v += 2)
            body(s + v * rows, v, std::integral_constant<int, 2>{});
        if (v < vectors) body(s + v * rows, v, std::integral_constant<int, 1>{});
    }

  private:
    // Calls body(vector, place in the state, n) for all of S.
    template <class Body>
    void copy(const Body& body) const {
        for (int64_t r = 0; r < key_dim; ++r)
            for_vectors(width, [&](int64_t i, auto n) INLINED {
                const int64_t v = i / W, pair = v & ~1, count = std::min<int64_t>(2, vectors - pair);
                body(s[pair * rows + r * count + v % 2], r * width + i, n);
            });
    }
};

}  // namespace kernels
