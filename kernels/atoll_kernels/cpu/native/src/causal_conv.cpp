// A short convolution of each channel over the tokens of a sequence, whose last inputs are its state.

#include <algorithm>

#include "recurrent.h"
#include "row_loops.h"
#include "scratch.h"
#include "shuffle.h"

using namespace kernels;

namespace {

constexpr int64_t kChannels = 256;  // of an item: its weights and the last inputs stay in L1

// Filled by atoll_kernels/cpu/recurrent.py. weight: (channels, width); state: (slots, channels,
// width - 1) or 0. state_row: elements between slots.
struct ConvArgs {
    int64_t is_bf16, threads, x, weight, bias, state, out;
    Past past;
    int64_t x_row, state_row, num_seqs, channels, width, is_silu;
};

// Some channels of some sequences. Rows of `weights` and `window` are kChannels apart; those of the
// window are the inputs that an output depends on.
template <class T, int Width>
class Channels {
  public:
    explicit Channels(const ConvArgs& args)
        : a_(args), weights_(scratch_.take<float>(Width * kChannels)),
          window_(scratch_.take<float>(Width * kChannels)) {}

    void choose(int64_t block) {
        first_ = block * kChannels, count_ = std::min(kChannels, a_.channels - first_);
        read_rows<Width>((const T*)a_.weight + first_ * Width, weights_);
    }

    void convolve(const Sequence& sequence) {
        T* out = (T*)a_.out + sequence.first * a_.channels + first_;
        if (sequence.slot < 0) {
            for (int64_t t = 0; t < sequence.count; ++t, out += a_.channels)
                std::memset((void*)out, 0, count_ * sizeof(T));
            return;
        }
        T* state = a_.state ? (T*)a_.state + sequence.slot * a_.state_row + first_ * (Width - 1)
                            : nullptr;
        if (sequence.is_new) std::memset(window_, 0, (Width - 1) * kChannels * sizeof(float));
        else read_rows<Width - 1>(state, window_);
        float* rows[Width];
        for (int j = 0; j < Width; ++j) rows[j] = window_ + j * kChannels;
        const T* x = (const T*)a_.x + sequence.first * a_.x_row + first_;
        for (int64_t t = 0; t < sequence.count; ++t, x += a_.x_row, out += a_.channels) {
            row(x, out, rows);
            std::rotate(rows, rows + 1, rows + Width);
        }
        if (state) write_rows<Width - 1>(state, rows);
    }

  private:
    INLINE void row(const T* x, T* out, float* const (&rows)[Width]) const {
        const T* bias = a_.bias ? (const T*)a_.bias + first_ : nullptr;
        for_vectors(count_, [&](int64_t i, auto n) {
            const Floats newest = read(x + i, n);
            store(rows[Width - 1] + i, newest);
            Floats y = newest * load(weights_ + (Width - 1) * kChannels + i);
            if (bias) y += read(bias + i, n);
#pragma GCC unroll 4
            for (int j = 0; j < Width - 1; ++j)
                y += load(rows[j] + i) * load(weights_ + j * kChannels + i);
            write(out + i, a_.is_silu ? silu(y) : y, n);
        });
    }

    // From (channels, N) to N rows.
    template <int N>
    void read_rows(const T* from, float* to) const {
        for_vectors(count_, [&](int64_t i, auto n) {
            T part[N * W] = {};
            const T* at = from + i * N;
            if (n < W) at = (const T*)std::memcpy((void*)part, at, n * N * sizeof(T));
            Floats x[N];
            for (int j = 0; j < N; ++j) x[j] = load(at + j * W);
            separate(x);
            for (int j = 0; j < N; ++j) store(to + j * kChannels + i, x[j]);
        });
    }

    // The inverse, from the first N of some rows.
    template <int N>
    void write_rows(T* to, float* const* rows) const {
        for_vectors(count_, [&](int64_t i, auto n) {
            Floats x[N];
            for (int j = 0; j < N; ++j) x[j] = load(rows[j] + i);
            weave(x);
            T part[N * W];
            T* const at = n < W ? part : to + i * N;
            for (int j = 0; j < N; ++j) store(at + j * W, x[j]);
            if (n < W) std::memcpy((void*)(to + i * N), part, n * N * sizeof(T));
        });
    }

    const ConvArgs& a_;
    Scratch scratch_;
    float *weights_, *window_;
    int64_t first_ = 0, count_ = 0;
};

template <class T, int Width>
void convolve(const ConvArgs& a) {
    const int64_t blocks = (a.channels + kChannels - 1) / kChannels;
    const int64_t tokens = ((const int32_t*)a.past.starts)[a.num_seqs];
    const auto piece = [&](int64_t first, int64_t last, int64_t) {
        Channels<T, Width> channels(a);
        int64_t chosen = -1;
        for (int64_t i = first; i < last; ++i) {
            if (i / a.num_seqs != chosen) channels.choose(chosen = i / a.num_seqs);
            channels.convolve(a.past[i % a.num_seqs]);
        }
    };
    const bool is_small = 4 * tokens * a.channels < kSerialElements;
    for_pieces({blocks * a.num_seqs, a.threads}, is_small, piece);
}

template <class T>
void choose(const ConvArgs& a) {
    switch (a.width) {
        case 2: return convolve<T, 2>(a);
        case 3: return convolve<T, 3>(a);
        case 4: return convolve<T, 4>(a);
    }
}

}  // namespace

extern "C" __attribute__((visibility("default"))) void atoll_causal_conv(const ConvArgs* args) {
    args->is_bf16 ? choose<bf16>(*args) : choose<float>(*args);
}
