// act(x @ weight.T + bias) in float32 or bfloat16: products of tiles with packed weights, finished in
// registers.

#include <algorithm>

#include "epilogue.h"
#include "row_loops.h"
#include "gemm_microkernel.h"
#include "gemm_amx.h"

using namespace kernels;

namespace {

// Most rows of an item: weights come from the second cache for all of them. Without tiles a pair of
// panels stays in the first one, and more rows would not fit beside it.
constexpr int64_t kTiledRows = 256, kRows = 64;
constexpr int64_t kChunkBytes = 3 << 18;  // most weights of an item: they stay in the second cache

// Filled by atoll_kernels/cpu/linear_native_dense.py. weight: panels (words of inputs, W outputs). bias
// (or 0): floats, padded to whole panels. is_gated: `outs` are half of the weight's, the activation
// of each times the one so many further on; whole pairs of panels.
struct LinearArgs {
    int64_t x, weight, bias, out, rows, width, outs, x_row, kind, is_gated, is_bf16, threads;
};

// Two panels' biases.
struct Biases {
    Floats left = {}, right = {};
    Biases() = default;
    Biases(const LinearArgs& a, int64_t first, int64_t count) {
        if (!a.bias) return;
        left = load((const float*)a.bias + first);
        if (count > W) right = load((const float*)a.bias + first + W);
    }
};

// Writes the sums of a product to `out`, some rows at a time, while the next product is computed.
template <class T, class Function>
class Finish {
  public:
    Finish(const LinearArgs& args, const Function& function) : args_(args), function_(function) {}

    // Sums (rows, two panels) of a pair of panels; share: rows of a call.
    void start(const Floats* sums, int64_t row, int64_t rows, int64_t pair, int64_t share) {
        const int64_t first = 2 * pair * W;
        sums_ = sums, left_ = rows, share_ = share;
        out_ = (T*)args_.out + row * args_.outs + first;
        outs_ = std::min<int64_t>(2 * W, args_.outs - first);
        bias_ = Biases(args_, first, outs_);
    }
    // The same at once, gated: up holds the sums of what the activations are multiplied by.
    void gated(const Floats* sums, const Floats* up, int64_t row, int64_t rows, int64_t pair) {
        start(sums, row, rows, pair, rows);
        const Biases other(args_, args_.outs + 2 * pair * W, 2 * W);
        for (; left_ > 0; --left_, sums_ += 2, up += 2, out_ += args_.outs)
            store_pair(out_, function_(sums_[0] + bias_.left) * (up[0] + other.left),
                       function_(sums_[1] + bias_.right) * (up[1] + other.right));
    }
    INLINE void step() { outs_ == 2 * W ? whole(std::min(share_, left_)) : complete(); }
    void complete() { outs_ == 2 * W ? whole(left_) : partial(); }

  private:
    INLINE void whole(int64_t n) {
        const Floats* sums = sums_;
        const Biases bias = bias_;
        T* out = out_;
        for (int64_t i = 0; i < n; ++i, sums += 2, out += args_.outs)
            store_pair(out, function_(sums[0] + bias.left), function_(sums[1] + bias.right));
        sums_ = sums, out_ = out, left_ -= n;
    }
    void partial() {
        for (; left_ > 0; --left_, sums_ += 2, out_ += args_.outs) {
            store(out_, function_(sums_[0] + bias_.left), std::min<int64_t>(W, outs_));
            if (outs_ > W) store(out_ + W, function_(sums_[1] + bias_.right), outs_ - W);
        }
    }
    const LinearArgs& args_;
    const Function& function_;
    const Floats* sums_ = nullptr;
    T* out_ = nullptr;
    int64_t left_ = 0, share_ = 0, outs_ = 0;
    Biases bias_;
};

// Rows [first, last) of x by some pairs of panels. The cuts of rows are even, the last overlapping
// the one before, so that the registers keep their shape. With tiles a cut stays in the first cache
// for all panels, which pass it by; without them a pair of panels stays there for all cuts.
template <class Policy, class T, class Function>
void pairs_of_panels(const LinearArgs& a, bool tiled, int64_t first, int64_t last, int64_t start,
                     int64_t end, const Function& function) {
    const int64_t words = a.width / Policy::kPerWord, x_words = a.x_row / Policy::kPerWord;
    const int64_t panels = (a.outs + W - 1) / W, most = tiled ? kMostRows : kTileRows;
    const int64_t cuts = (last - first + most - 1) / most, rows = (last - first + cuts - 1) / cuts;
    const int64_t calls = std::max<int64_t>(1, words / kTileWords - 1);  // of `step` in a product
    Floats sums[2][kMostRows * 2];  // by turns: of this product, and of the one being finished
    bool turn = false;
    Tiles tiles;
    Finish<T, Function> finish(a, function);
    const auto multiplied = [&](int64_t cut, int64_t pair, int64_t half, Floats* to,
                                const auto& beside) INLINED {
        const int64_t row = std::min(first + cut * rows, last - rows);
        // The first cut waits for its panels, unless the second of the pair before fetched them.
        const bool fetches = cut == std::min<int64_t>(1, cuts - 1) && 2 * pair + 3 < panels;
        const auto weight = (const uint32_t*)a.weight + (2 * pair + half * panels) * words * W;
        multiply<Policy, true>(tiles, tiled, rows, (const uint32_t*)a.x + row * x_words, x_words,
                               weight, words * W, words, to, 2,
                               std::min<int64_t>(2, panels - 2 * pair), false, beside,
                               fetches ? weight + 2 * words * W : nullptr);
        return row;
    };
    const auto product = [&](int64_t cut, int64_t pair) {
        if (a.is_gated) {
            multiplied(cut, pair, 1, sums[1], [] {});
            const int64_t row = multiplied(cut, pair, 0, sums[0], [] {});
            return finish.gated(sums[0], sums[1], row, rows, pair);
        }
        const int64_t row =
            multiplied(cut, pair, 0, sums[turn], [&]() INLINED { finish.step(); });
        finish.complete();
        finish.start(sums[turn], row, rows, pair, (rows + calls - 1) / calls);
        turn = !turn;
    };
    if (tiled) {
        for (int64_t cut = 0; cut < cuts; ++cut)
            for (int64_t pair = start; pair < end; ++pair) product(cut, pair);
    } else {
        for (int64_t pair = start; pair < end; ++pair)
            for (int64_t cut = 0; cut < cuts; ++cut) product(cut, pair);
    }
    finish.complete();
}

// An item is some rows and some panels, so that few rows also make many items. Items of the same
// panels follow each other: the panels stay in the second cache.
template <class Policy, class T>
void product(const LinearArgs& a) {
    const int64_t pairs = (a.outs + 2 * W - 1) / (2 * W);
    const bool tiled = is_tiled<Policy>(a.rows, a.width / Policy::kPerWord);
    const int64_t most = tiled ? kTiledRows : kRows, row_items = (a.rows + most - 1) / most;
    const int64_t bytes = a.outs * a.width * (int64_t)sizeof(T);
    const int64_t chunks = (bytes + kChunkBytes - 1) / kChunkBytes;
    const int64_t cuts =
        std::clamp<int64_t>(std::max(chunks, 8 * a.threads / row_items), 1, pairs);
    const bool is_small = a.rows * a.width * a.outs < (1 << 18);
    with_activation(a.kind, [&](const auto& function) {
        const auto item = [&](int64_t i) {
            const int64_t part = i % row_items, cut = i / row_items;
            pairs_of_panels<Policy, T>(a, tiled, a.rows * part / row_items,
                                       a.rows * (part + 1) / row_items, pairs * cut / cuts,
                                       pairs * (cut + 1) / cuts, function);
        };
        for_tasks({row_items * cuts, a.threads}, is_small, item);
    });
}

}  // namespace

extern "C" __attribute__((visibility("default"))) void atoll_linear(const LinearArgs* args) {
    if (args->rows == 0) return;
#if defined(__AVX512BF16__)
    if (args->is_bf16) return product<Bfloat16, bf16>(*args);
#endif
    product<Float32, float>(*args);
}

// Floats in a vector: the width of a panel.
extern "C" __attribute__((visibility("default"))) int atoll_width() { return W; }
