// Mamba-1's scan (Gu & Dao 2023, arXiv 2312.00752) over packed sequences: blocks of channels of all
// sequences are given to threads. With a row s (state_size) of a channel's state, of a token:
//
//     s = exp(dt A) s + (dt x) B;  out = s C + D x

#include <algorithm>

#include "recurrent.h"
#include "row_loops.h"
#include "scratch.h"
#include "shuffle.h"
#include "state.h"

using namespace kernels;

namespace {

constexpr int64_t kSmall = 1 << 14;    // elements below which threads cost more than they save
constexpr int64_t kChannels = 4 * 16;  // of an item: their states stay in L1
constexpr int64_t kTokens = 32;        // of a chunk, whose B and C stay there as well

// Filled by atoll_kernels/cpu/scan.py: the same fields in the same order. Strides in elements; dt is
// (tokens, channels) floats, decay, which is A, (channels, state_size), skip, which is D, (channels,).
// state: (slots, channels, state_size), of state_kind, or 0.
struct ScanArgs {
    int64_t is_bf16, threads, x, dt, decay, b, c, skip, state, out;
    Past past;
    int64_t x_token, dt_token, b_token, c_token, state_slot, num_seqs, channels, state_size;
    int64_t state_kind;
};

// A row of states is vectors_ vectors: in scratch memory, or, if it has no others, in a slot.
struct Copied {
    Floats* const states;
    INLINE Floats get(int64_t at) const { return states[at]; }
    INLINE void set(int64_t at, Floats x) const { states[at] = x; }
};
template <class S>
struct Kept {
    S* const states;
    const bool is_new;
    INLINE Floats get(int64_t at) const { return is_new ? Floats{} : load(states + at * W); }
    INLINE void set(int64_t at, Floats x) const { store(states + at * W, x); }
};

// Some channels of some sequences. Rows of speeds, states, b and c are padded with zeros.
template <class T, class S>
class Block {
  public:
    explicit Block(const ScanArgs& args)
        : a_(args), vectors_((a_.state_size + W - 1) / W), speeds_(take(kChannels)),
          states_(take(kChannels)), b_(take(kTokens)), c_(take(kTokens)) {}

    void choose(int64_t block) {
        first_ = block * kChannels, count_ = std::min(kChannels, a_.channels - first_);
        std::memset((void*)speeds_, 0, kChannels * vectors_ * sizeof(Floats));
        copy([&](Floats& speed, Floats&, int64_t at, auto n) INLINED {
            speed = read((const float*)a_.decay + first_ * a_.state_size + at, n) * splat(kLog2e);
        });
    }

    void run(const Sequence& sequence) {
        if (sequence.slot < 0) {
            T* out = (T*)a_.out + sequence.first * a_.channels + first_;
            for (int64_t t = 0; t < sequence.count; ++t, out += a_.channels)
                std::memset((void*)out, 0, count_ * sizeof(T));
            return;
        }
        S* const state = a_.state ? (S*)a_.state + sequence.slot * a_.state_slot +
                                        first_ * a_.state_size
                                  : nullptr;
        if (state && sequence.count == 1 && a_.state_size % W == 0)
            return advance(Kept<S>{state, sequence.is_new}, sequence.first, 1);
        std::memset((void*)states_, 0, kChannels * vectors_ * sizeof(Floats));
        if (!sequence.is_new)
            copy([&](Floats&, Floats& s, int64_t at, auto n) INLINED { s = read(state + at, n); });
        for (int64_t t = 0; t < sequence.count; t += kTokens)
            advance(Copied{states_}, sequence.first + t, std::min(kTokens, sequence.count - t));
        if (state)
            copy([&](Floats&, Floats& s, int64_t at, auto n) INLINED { write(state + at, s, n); });
    }

  private:
    Floats* take(int64_t rows) { return scratch_.take<Floats>(rows * vectors_); }

    // Calls body(vector of speeds, of states, place in the block's state, n) for all.
    template <class Body>
    void copy(const Body& body) const {
        for (int64_t i = 0; i < count_; ++i)
            for_vectors(a_.state_size, [&](int64_t j, auto n) INLINED {
                const int64_t v = i * vectors_ + j / W;
                body(speeds_[v], states_[v], i * a_.state_size + j, n);
            });
    }

    template <class States>
    void advance(const States& states, int64_t first, int64_t count) {
        for (int64_t t = 0; t < count; ++t)
            for_vectors(a_.state_size, [&](int64_t j, auto n) INLINED {
                const int64_t v = t * vectors_ + j / W;
                b_[v] = read((const T*)a_.b + (first + t) * a_.b_token + j, n);
                c_[v] = read((const T*)a_.c + (first + t) * a_.c_token + j, n);
            });
        for_vectors(count_, [&](int64_t i, auto n) INLINED {
            for (int64_t t = 0; t < count; ++t)
                token(states, first + t, i, n, b_ + t * vectors_, c_ + t * vectors_);
        });
    }

    // A vector of channels from channel i on, n of which there are.
    template <class States, class N>
    INLINE void token(const States& states, int64_t token, int64_t i, N n, const Floats* b,
                      const Floats* c) {
        const int64_t channel = first_ + i;
        const Floats x = read((const T*)a_.x + token * a_.x_token + channel, n);
        const Floats dt = read((const float*)a_.dt + token * a_.dt_token + channel, n);
        const Floats inputs = dt * x;
        Floats sums[W] = {};
        for (int64_t j = 0; j < n; ++j) {
            Floats sum = {};
            for (int64_t v = 0; v < vectors_; ++v) {
                const int64_t at = (i + j) * vectors_ + v;
                const Floats decay = exp2(speeds_[at] * splat(dt[j]));
                const Floats s = decay * states.get(at) + splat(inputs[j]) * b[v];
                states.set(at, s);
                sum += s * c[v];
            }
            sums[j] = sum;
        }
        const Floats skipped = read((const float*)a_.skip + channel, n) * x;
        write((T*)a_.out + token * a_.channels + channel, sums_of(sums) + skipped, n);
    }

    const ScanArgs& a_;
    Scratch scratch_;
    const int64_t vectors_;
    Floats *const speeds_, *const states_, *const b_, *const c_;
    int64_t first_ = 0, count_ = 0;
};

template <class T, class S>
void run(const ScanArgs& a) {
    const int64_t blocks = (a.channels + kChannels - 1) / kChannels;
    const int64_t tokens = ((const int32_t*)a.past.starts)[a.num_seqs];
    const auto piece = [&](int64_t first, int64_t last, int64_t) {
        Block<T, S> block(a);
        int64_t chosen = -1;
        for (int64_t i = first; i < last; ++i) {
            if (i / a.num_seqs != chosen) block.choose(chosen = i / a.num_seqs);
            block.run(a.past[i % a.num_seqs]);
        }
    };
    const bool is_small = tokens * a.channels * a.state_size < kSmall;
    for_pieces({blocks * a.num_seqs, a.threads}, is_small, piece);
}

template <class T>
void choose(const ScanArgs& a) {
    with_state(a.state_kind, [&](auto element) { run<T, decltype(element)>(a); });
}

}  // namespace

extern "C" __attribute__((visibility("default"))) void atoll_selective_scan(const ScanArgs* args) {
    args->is_bf16 ? choose<bf16>(*args) : choose<float>(*args);
}
