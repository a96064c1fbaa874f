// Mamba-2's scan (Dao & Gu 2024, arXiv 2405.21060) over packed sequences: the heads of all sequences
// are given to threads. With S (head_dim, state_size), of a token:
//
//     S = exp(dt A) S + (dt x) B^T;  out = S C + D x
//
// Rows of S do not depend on each other: one stays in registers while the tokens of a chunk pass.

#include <algorithm>
#include <cmath>

#include "recurrent.h"
#include "row_loops.h"
#include "scratch.h"
#include "shuffle.h"
#include "state.h"

using namespace kernels;

namespace {

constexpr int64_t kSmall = 1 << 16;  // multiply-adds below which threads cost more than they save
constexpr int64_t kTokens = 32;      // of a chunk: their B and C stay in L1, or nearly
constexpr int kVectors = 8;          // of a row that are in registers at once
constexpr int kRows = 4;             // of a step that are taken up at once

// Filled by atoll_kernels/cpu/scan.py: the same fields in the same order. Strides in
// elements; dt is (tokens, heads) floats, A and D are (heads,) floats, D may be 0. state: (slots,
// heads, head_dim, state_size), of state_kind, or 0.
struct ScanArgs {
    int64_t is_bf16, threads, x, dt, decay, b, c, skip, state, out;
    Past past;
    int64_t x_token, x_head, dt_token, b_token, b_group, c_token, c_group, state_slot;
    int64_t num_seqs, num_heads, num_groups, head_dim, state_size, state_kind;
};

// One head of a sequence. `state`: its matrix, in a slot or in scratch memory.
template <class T, class S>
class Head {
  public:
    Head(const ScanArgs& args, const Sequence& sequence, int64_t head)
        : a_(args), head_(head), sequence_(sequence), width_(a_.state_size),
          padded_((width_ + W - 1) / W * W), b_(scratch_.take<float>(kTokens * padded_)),
          c_(scratch_.take<float>(kTokens * padded_)), decays_(scratch_.take<float>(kTokens)),
          steps_(scratch_.take<float>(kTokens)),
          inputs_(scratch_.take<float>(kTokens * a_.head_dim)),
          sums_(scratch_.take<float>(kTokens * (a_.head_dim + W))) {}

    void run() {
        const int64_t size = a_.head_dim * width_;
        S* const kept = a_.state ? (S*)a_.state + sequence_.slot * a_.state_slot + head_ * size
                                 : nullptr;
        if (kept && (std::is_same_v<S, float> || sequence_.count == 1))
            return pass_over(kept, sequence_.is_new);
        // Rounded once, at the end.
        float* const wide = scratch_.take<float>(size);
        if (!sequence_.is_new)
            for_vectors(size, [&](int64_t i, auto n) { write(wide + i, read(kept + i, n), n); });
        pass_over(wide, sequence_.is_new);
        if (kept) for_vectors(size, [&](int64_t i, auto n) { write(kept + i, read(wide + i, n), n); });
    }

  private:
    template <class State>
    void pass_over(State* state, bool is_new) {
        for (int64_t t = 0; t < sequence_.count; t += kTokens, is_new = false) {
            read_tokens(sequence_.first + t, std::min(kTokens, sequence_.count - t));
            std::memset(sums_, 0, a_.head_dim * (count_ == 1 ? 1 : kTokens) * sizeof(float));
            for (int64_t n = 0; n < width_; n += kVectors * W) blocks(state, n, is_new);
            write_outputs();
        }
    }

    void read_tokens(int64_t first, int64_t count) {
        first_ = first, count_ = count;
        const int64_t group = head_ / (a_.num_heads / a_.num_groups);
        const float speed = ((const float*)a_.decay)[head_];
        for (int64_t t = 0; t < count; ++t) {
            const int64_t token = first + t;
            read_row((const T*)a_.b + token * a_.b_token + group * a_.b_group, b_ + t * padded_);
            read_row((const T*)a_.c + token * a_.c_token + group * a_.c_group, c_ + t * padded_);
            steps_[t] = ((const float*)a_.dt)[token * a_.dt_token + head_];
            decays_[t] = std::exp(steps_[t] * speed);
            const Floats step = splat(steps_[t]);
            const T* const x = input(t);
            for_vectors(a_.head_dim, [&](int64_t i, auto n) {
                write(inputs_ + t * a_.head_dim + i, step * read(x + i, n), n);
            });
        }
    }

    // Zeros behind a row, so that it is whole vectors.
    void read_row(const T* from, float* to) const {
        for_vectors(width_, [&](int64_t i, auto n) { store(to + i, read(from + i, n)); });
    }

    // The state's columns from `first` on, as many vectors as there are up to kVectors.
    template <class State>
    void blocks(State* state, int64_t first, bool is_new) {
        const int64_t left = width_ - first, vectors = (std::min(left, int64_t(kVectors * W)) + W - 1) / W;
        switch (vectors) {
            case 8: return rows<8>(state, first, is_new);
            case 4: return rows<4>(state, first, is_new);
            case 2: return rows<2>(state, first, is_new);
            case 1: return rows<1>(state, first, is_new);
            default:
                for (int64_t v = 0; v < vectors; ++v) rows<1>(state, first + v * W, is_new);
        }
    }

    template <int V, class State>
    void rows(State* state, int64_t first, bool is_new) {
        const int64_t last = std::min<int64_t>(width_ - first - (V - 1) * W, W);
        for (int64_t p = 0; p < a_.head_dim; p += W) {
            const int64_t num_rows = std::min<int64_t>(a_.head_dim - p, W);
            if (count_ == 1) step<V>(state, first, last, p, num_rows, is_new);
            else if constexpr (std::is_same_v<State, float>)
                chunk<V>(state, first, last, p, num_rows, is_new);
        }
    }

    // V vectors of a row from `at` on, the last of which has `last` elements; 0 if it is new.
    template <int V>
    INLINE void load_row(const float* at, int64_t last, bool is_new, Floats (&s)[V]) const {
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v)
            s[v] = is_new ? Floats{} : v < V - 1 ? load(at + v * W) : read(at + v * W, last);
    }
    template <int V>
    INLINE void store_row(float* at, int64_t last, const Floats (&s)[V]) const {
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) v < V - 1 ? store(at + v * W, s[v]) : write(at + v * W, s[v], last);
    }

    // Takes up token t in a row; returns what is to be added up to its output.
    template <int V>
    INLINE Floats pass(Floats (&s)[V], int64_t t, int64_t row, int64_t first) const {
        const Floats decay = splat(decays_[t]), x = splat(inputs_[t * a_.head_dim + row]);
        const float *const b = b_ + t * padded_ + first, *const c = c_ + t * padded_ + first;
        Floats found = {};
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) {
            s[v] = s[v] * decay + x * load(b + v * W);
            found += s[v] * load(c + v * W);
        }
        return found;
    }

    // One token, W rows of S: some at once, whose sums do not wait for each other.
    template <int V, class State>
    void step(State* state, int64_t first, int64_t last, int64_t p, int64_t num_rows, bool is_new) {
        Floats found[W] = {};
        State* const at = state + p * width_ + first;
        const auto all = [&](auto n) INLINED {
            int64_t r = 0;
            for (; r + kRows <= num_rows; r += kRows)
                take_up<V, kRows>(at + r * width_, n, is_new, p + r, first, found + r);
            for (; r < num_rows; ++r)
                take_up<V, 1>(at + r * width_, n, is_new, p + r, first, found + r);
        };
        last == W ? all(std::integral_constant<int64_t, W>{}) : all(last);
        const Floats sums = sums_of(found);
        float* const to = sums_ + p;
        write(to, read(to, num_rows) + sums, num_rows);
    }

    // Takes up the token in R rows from `row` on; n: elements of the last of V vectors.
    template <int V, int R, class State, class N>
    INLINE void take_up(State* at, N n, bool is_new, int64_t row, int64_t first,
                        Floats* found) const {
        const Floats decay = splat(decays_[0]);
        const float *const b = b_ + first, *const c = c_ + first;
        const int64_t width = width_;
        Floats x[R], sums[R] = {};
        for (int r = 0; r < R; ++r) x[r] = splat(inputs_[row + r]);
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) {
            const Floats taken = load(b + v * W), shown = load(c + v * W);
#pragma GCC unroll 4
            for (int r = 0; r < R; ++r) {
                State* const p = at + r * width + v * W;
                Floats s = x[r] * taken;
                if (!is_new) s += decay * (v < V - 1 ? load(p) : read(p, n));
                sums[r] += s * shown;
                v < V - 1 ? store(p, s) : write(p, s, n);
            }
        }
        for (int r = 0; r < R; ++r) found[r] = sums[r];
    }

    // Several tokens: each row stays in registers, and its outputs are added up for W tokens at once.
    template <int V>
    void chunk(float* state, int64_t first, int64_t last, int64_t p, int64_t num_rows, bool is_new) {
        for (int64_t r = p; r < p + num_rows; ++r) {
            float* const at = state + r * width_ + first;
            Floats s[V];
            load_row<V>(at, last, is_new, s);
            for (int64_t t = 0; t < count_; t += W) {
                const int64_t n = std::min<int64_t>(count_ - t, W);
                Floats found[W] = {};
                for (int64_t i = 0; i < n; ++i) found[i] = pass<V>(s, t + i, r, first);
                const Floats sums = sums_of(found);
                float* const to = sums_ + r * kTokens + t;
                write(to, read(to, n) + sums, n);
            }
            store_row<V>(at, last, s);
        }
    }

    void write_outputs() const {
        const Floats skip = splat(a_.skip ? ((const float*)a_.skip)[head_] : 0.0f);
        const Ints apart = iota(0) * splat((int32_t)kTokens);
        for (int64_t t = 0; t < count_; ++t) {
            const T* const x = input(t);
            T* const out = (T*)a_.out + ((first_ + t) * a_.num_heads + head_) * a_.head_dim;
            for_vectors(a_.head_dim, [&](int64_t i, auto n) {
                const Floats found = count_ == 1 ? read(sums_ + i, n)
                                                 : gather(sums_ + i * kTokens + t, apart);
                write(out + i, found + skip * read(x + i, n), n);
            });
        }
    }

    const T* input(int64_t t) const {
        return (const T*)a_.x + (first_ + t) * a_.x_token + head_ * a_.x_head;
    }

    const ScanArgs& a_;
    const int64_t head_;
    const Sequence& sequence_;
    Scratch scratch_;
    const int64_t width_, padded_;
    // b_, c_: rows of the chunk's tokens. inputs_: dt x. sums_: (head_dim, kTokens), or (head_dim,) of
    // one token; what is behind them may be read.
    float *b_, *c_, *decays_, *steps_, *inputs_, *sums_;
    int64_t first_ = 0, count_ = 0;
};

template <class T, class S>
void run(const ScanArgs& a) {
    const int64_t tokens = ((const int32_t*)a.past.starts)[a.num_seqs], heads = a.num_heads;
    const bool is_small = tokens * heads * a.head_dim * a.state_size < kSmall;
    for_tasks({a.num_seqs * heads, a.threads, 1, 1}, is_small, [&](int64_t i) {
        const Sequence sequence = a.past[i / heads];
        const int64_t head = i % heads;
        if (sequence.slot >= 0) return Head<T, S>(a, sequence, head).run();
        T* out = (T*)a.out + (sequence.first * heads + head) * a.head_dim;
        for (int64_t t = 0; t < sequence.count; ++t, out += heads * a.head_dim)
            std::memset((void*)out, 0, a.head_dim * sizeof(T));
    });
}

template <class T>
void choose(const ScanArgs& a) {
    with_state(a.state_kind, [&](auto element) { run<T, decltype(element)>(a); });
}

}  // namespace

extern "C" __attribute__((visibility("default"))) void atoll_selective_scan2(const ScanArgs* args) {
    args->is_bf16 ? choose<bf16>(*args) : choose<float>(*args);
}
