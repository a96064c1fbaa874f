// The gated delta rule token by token. S^T k and S^T q are read in one pass, before S changes: out =
// decay S^T q + (k . q) u.
#pragma once

#include "gated_delta.h"

namespace kernels {

// One token of a sequence, in place: memory is read once, in rows, and written once; in between, the
// columns of S are in L2. state: of the head, or null if nothing is kept.
template <class T, class S>
class Step {
  public:
    Step(const Tokens<T>& tokens, S* state, bool is_new)
        : x_(tokens), state_(state), is_new_(is_new) {}

    void run() const {
        const int64_t width = x_.a.value_dim;
        int64_t column = 0;
        for (; column + kWide * W <= width; column += kWide * W)
            columns<kWide>(column, std::integral_constant<int64_t, kWide * W>{});
        for (; column + W <= width; column += W)
            columns<1>(column, std::integral_constant<int64_t, W>{});
        if (column < width) columns<1>(column, width - column);
    }

  private:
    static constexpr int kWide = W == 16 ? 8 : 4;  // two sums of each fit into the registers

    // V vectors of columns; n < W columns only if V is 1.
    template <int V, class N>
    INLINE void columns(int64_t column, N n) const {
        const int64_t width = x_.a.value_dim;
        S* const s = state_ ? state_ + column : nullptr;
        const auto old = [&](int64_t row, int v) INLINED {
            const S* const at = s + row * width + v * W;
            return V == 1 ? read(at, n) : load(at);
        };
        Floats u[V] = {}, found[V] = {};
        if (!is_new_)
            for (int64_t r = 0; r < x_.a.key_dim; ++r) {
                const Floats key = splat(x_.keys[r]), query = splat(x_.queries[r]);
#pragma GCC unroll 8
                for (int v = 0; v < V; ++v) {
                    const Floats x = old(r, v);
                    u[v] += x * key, found[v] += x * query;
                }
            }
        x_.template finish<V>(0, column, n, u, found);
        if (!state_) return;
        const Floats decay = splat(x_.decays[0]);
        for (int64_t r = 0; r < x_.a.key_dim; ++r) {
            const Floats key = splat(x_.keys[r]);
#pragma GCC unroll 8
            for (int v = 0; v < V; ++v) {
                const Floats x = is_new_ ? key * u[v] : decay * old(r, v) + key * u[v];
                S* const at = s + r * width + v * W;
                V == 1 ? write(at, x, n) : store(at, x);
            }
        }
    }

    const Tokens<T>& x_;
    S* const state_;
    const bool is_new_;
};

// Several tokens of a sequence, one after the other, for two vectors of columns at a time.
template <class T>
class Recurrence {
  public:
    Recurrence(const Tokens<T>& tokens, Scratch& scratch)
        : x_(tokens), zeros_(scratch.take<float>(x_.rows)) {
        std::memset(zeros_, 0, x_.rows * sizeof(float));
    }

    // What `tokens` has read.
    void advance(const Columns& state) const {
        state.for_pairs([&](Floats* s, int64_t vector, auto count) {
            columns<decltype(count)::value>(s, vector);
        });
    }

  private:
    // A token's pass over S first completes the update of the token before.
    template <int V>
    void columns(Floats* s, int64_t vector) const {
        Floats u[V] = {}, decay = splat(1.0f);
        const float* key = zeros_;
        for (int64_t t = 0; t < x_.count; ++t) {
            const float *const next = x_.keys + t * x_.rows, *const query = x_.queries + t * x_.rows;
            Floats known[2][V] = {}, found[2][V] = {};
            for (int64_t r = 0; r < x_.rows; r += 2)
#pragma GCC unroll 2
                for (int i = 0; i < 2; ++i)
#pragma GCC unroll 2
                    for (int v = 0; v < V; ++v) {
                        Floats& x = s[(r + i) * V + v];
                        x = x * decay + splat(key[r + i]) * u[v];
                        known[i][v] += x * splat(next[r + i]);
                        found[i][v] += x * splat(query[r + i]);
                    }
            for (int v = 0; v < V; ++v)
                u[v] = known[0][v] + known[1][v], found[0][v] += found[1][v];
            x_.template finish<V>(t, vector * W, x_.a.value_dim - vector * W, u, found[0]);
            decay = splat(x_.decays[t]), key = next;
        }
        for (int64_t r = 0; r < x_.rows; ++r)
            for (int v = 0; v < V; ++v) s[r * V + v] = s[r * V + v] * decay + splat(key[r]) * u[v];
    }

    const Tokens<T>& x_;
    float* const zeros_;
};

}  // namespace kernels
