// Mamba-1's scan (Gu & Dao 2023, arXiv 2312.00752) over packed sequences: blocks of channels of all
// sequences are given to threads. With a row s (state_size) of a channel's state, of a token:
//
//     s = exp(dt A) s + (dt x) B;  out = s C + D x

#include <algorithm>

#include "recurrent.h"
#include "row_loops.h"
#include "scratch.h"
#include "shuffle.h"

using namespace kernels;

namespace {

constexpr int64_t kSmall = 1 << 14;    // elements below which threads cost more than they save
constexpr int64_t kChannels = 4 * 16;  // of an item: their states stay in L1
constexpr int64_t kTokens = 32;        // of a chunk, whose B and C stay there as well

// Filled by atoll_kernels/cpu/scan.py: the same fields in the same order. Strides in elements; dt is
// (tokens, channels) floats, decay, which is A, (channels, state_size), skip, which is D, (channels,).
// state: (slots, channels, state_size) floats or 0.
struct ScanArgs {
    int64_t is_bf16, threads, x, dt, decay, b, c, skip, state, out;
    Past past;
    int64_t x_token, dt_token, b_token, c_token, state_slot, num_seqs, channels, state_size;
};

// Some channels of some sequences. Rows of speeds, states, b and c are padded with zeros.
template <class T>
class Block {
  public:
    Block(const ScanArgs& args, int64_t block)
        : a_(args), first_(block * kChannels), count_(std::min(kChannels, a_.channels - first_)),
          vectors_((a_.state_size + W - 1) / W), speeds_(take(kChannels)), states_(take(kChannels)),
          b_(take(kTokens)), c_(take(kTokens)) {
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
        float* const state = a_.state ? (float*)a_.state + sequence.slot * a_.state_slot +
                                            first_ * a_.state_size
                                      : nullptr;
        std::memset((void*)states_, 0, kChannels * vectors_ * sizeof(Floats));
        if (!sequence.is_new)
            copy([&](Floats&, Floats& s, int64_t at, auto n) INLINED { s = read(state + at, n); });
        for (int64_t t = 0; t < sequence.count; t += kTokens)
            advance(sequence.first + t, std::min(kTokens, sequence.count - t));
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

    void advance(int64_t first, int64_t count) {
        for (int64_t t = 0; t < count; ++t)
            for_vectors(a_.state_size, [&](int64_t j, auto n) INLINED {
                const int64_t v = t * vectors_ + j / W;
                b_[v] = read((const T*)a_.b + (first + t) * a_.b_token + j, n);
                c_[v] = read((const T*)a_.c + (first + t) * a_.c_token + j, n);
            });
        for_vectors(count_, [&](int64_t i, auto n) INLINED {
            for (int64_t t = 0; t < count; ++t) token(first + t, i, n, b_ + t * vectors_, c_ + t * vectors_);
        });
    }

    // A vector of channels from channel i on, n of which there are.
    template <class N>
    INLINE void token(int64_t token, int64_t i, N n, const Floats* b, const Floats* c) {
        const int64_t channel = first_ + i;
        const Floats x = read((const T*)a_.x + token * a_.x_token + channel, n);
        const Floats dt = read((const float*)a_.dt + token * a_.dt_token + channel, n);
        const Floats inputs = dt * x;
        Floats sums[W];
        for (int j = 0; j < W; ++j) {
            Floats sum = {};
            for (int64_t v = 0; v < vectors_; ++v) {
                Floats& s = states_[(i + j) * vectors_ + v];
                const Floats decay = exp2(speeds_[(i + j) * vectors_ + v] * splat(dt[j]));
                s = decay * s + splat(inputs[j]) * b[v];
                sum += s * c[v];
            }
            sums[j] = sum;
        }
        const Floats skipped = read((const float*)a_.skip + channel, n) * x;
        write((T*)a_.out + token * a_.channels + channel, sums_of(sums) + skipped, n);
    }

    const ScanArgs& a_;
    Scratch scratch_;
    const int64_t first_, count_, vectors_;
    Floats *const speeds_, *const states_, *const b_, *const c_;
};

template <class T>
void run(const ScanArgs& a) {
    const int64_t blocks = (a.channels + kChannels - 1) / kChannels;
    const int64_t tokens = ((const int32_t*)a.past.starts)[a.num_seqs];
    const bool is_small = tokens * a.channels * a.state_size < kSmall;
    for_tasks({blocks * a.num_seqs, a.threads, 1, 1}, is_small, [&](int64_t i) {
        Block<T>(a, i % blocks).run(a.past[i / blocks]);
    });
}

}  // namespace

extern "C" __attribute__((visibility("default"))) void atoll_selective_scan(const ScanArgs* args) {
    args->is_bf16 ? run<bf16>(*args) : run<float>(*args);
}
