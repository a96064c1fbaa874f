// act(x @ weight.T + bias) in float32 or bfloat16, with packed weights and a fused epilogue.

#include <algorithm>

#include "epilogue.h"
#include "row_loops.h"
#include "gemm_microkernel.h"
#include "gemm_amx.h"

using namespace kernels;

namespace {

// Rows of an item at most: they share weights in L2. Without tiles, a pair of panels stays in L1, where
// more rows would not fit as well.
constexpr int64_t kTiledRows = 256, kRows = 64;
constexpr int64_t kChunkBytes = 3 << 18;  // weights of an item at most: they stay in L2

// Filled by atoll_kernels/cpu/linear_native_dense.py. weight: panels (words of inputs, W outputs). bias
// (or 0): floats, padded to whole panels. is_gated: `outs` is half of the weight's outputs, and an
// output is the activation of one of the first half times one of the second; whole pairs of panels.
struct LinearArgs {
    int64_t is_bf16, threads, x, weight, bias, out, rows, width, outs, x_row, kind, is_gated;
};

// The biases of a pair of panels.
struct Biases {
    Floats left = {}, right = {};
    Biases() = default;
    Biases(const LinearArgs& a, int64_t first, int64_t count) {
        if (!a.bias) return;
        left = load((const float*)a.bias + first);
        if (count > W) right = load((const float*)a.bias + first + W);
    }
};

// The epilogue of a product, some rows at a time, while the next product is computed.
template <class T, class Function>
class Finish {
  public:
    Finish(const LinearArgs& args, const Function& function) : args_(args), function_(function) {}

    // sums: (rows, two panels). share: rows per call of `step`.
    void start(const Floats* sums, int64_t row, int64_t rows, int64_t pair, int64_t share) {
        const int64_t first = 2 * pair * W;
        sums_ = sums, left_ = rows, share_ = share;
        out_ = (T*)args_.out + row * args_.outs + first;
        outs_ = std::min<int64_t>(2 * W, args_.outs - first);
        bias_ = Biases(args_, first, outs_);
    }
    // The epilogue of a gated product, all rows at once. up: the sums of the second half.
    void gated(const Floats* sums, const Floats* up, int64_t row, int64_t rows, int64_t pair) {
        start(sums, row, rows, pair, rows);
        const Biases other(args_, args_.outs + 2 * pair * W, 2 * W);
        for (; left_ > 0; --left_, sums_ += 2, up += 2, out_ += args_.outs)
            store_pair(out_, product(sums_[0] + bias_.left, up[0] + other.left),
                       product(sums_[1] + bias_.right, up[1] + other.right));
    }
    INLINE void step() { outs_ == 2 * W ? whole(std::min(share_, left_)) : complete(); }
    void complete() { outs_ == 2 * W ? whole(left_) : partial(); }

  private:
    INLINE Floats product(Floats gate, Floats up) const {
        return function_(gate) * factor_of(up, args_.kind);
    }
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

// Rows [first, last) of x times some pairs of panels. Blocks of rows are of equal size, the last one
// overlapping the one before, so that tiles need no other configuration. With tiles, a block of rows
// stays in L1 while all panels stream past it; without them, a pair of panels stays there.
template <class Policy, class T, class Function>
void pairs_of_panels(const LinearArgs& a, bool tiled, int64_t first, int64_t last, int64_t start,
                     int64_t end, const Function& function) {
    const int64_t words = a.width / Policy::kPerWord, x_words = a.x_row / Policy::kPerWord;
    const int64_t panels = (a.outs + W - 1) / W, most = tiled ? kMostRows : kTileRows;
    const int64_t blocks = (last - first + most - 1) / most;
    const int64_t rows = (last - first + blocks - 1) / blocks;
    const int64_t calls = std::max<int64_t>(1, words / kTileWords - 1);  // of `step` in a product
    Floats sums[2][kMostRows * 2];  // double buffer: this product, and the one being finished
    bool current = false;
    Tiles tiles;
    Finish<T, Function> finish(a, function);
    const auto multiplied = [&](int64_t block, int64_t pair, int64_t half, Floats* to,
                                const auto& overlap) INLINED {
        const int64_t row = std::min(first + block * rows, last - rows);
        // The second block of rows prefetches the panels that the first one of the next pair needs.
        const bool fetches = block == std::min<int64_t>(1, blocks - 1) && 2 * pair + 3 < panels;
        const auto weight = (const uint32_t*)a.weight + (2 * pair + half * panels) * words * W;
        multiply<Policy, true>(tiles, tiled, rows, (const uint32_t*)a.x + row * x_words, x_words,
                               weight, words * W, words, to, 2,
                               std::min<int64_t>(2, panels - 2 * pair), false, overlap,
                               fetches ? weight + 2 * words * W : nullptr);
        return row;
    };
    const auto product = [&](int64_t block, int64_t pair) {
        if (a.is_gated) {
            multiplied(block, pair, 1, sums[1], [] {});
            const int64_t row = multiplied(block, pair, 0, sums[0], [] {});
            return finish.gated(sums[0], sums[1], row, rows, pair);
        }
        const int64_t row =
            multiplied(block, pair, 0, sums[current], [&]() INLINED { finish.step(); });
        finish.complete();
        finish.start(sums[current], row, rows, pair, (rows + calls - 1) / calls);
        current = !current;
    };
    if (tiled) {
        for (int64_t block = 0; block < blocks; ++block)
            for (int64_t pair = start; pair < end; ++pair) product(block, pair);
    } else {
        for (int64_t pair = start; pair < end; ++pair)
            for (int64_t block = 0; block < blocks; ++block) product(block, pair);
    }
    finish.complete();
}

// An item is some rows and some panels, so that few rows are also divided into many items. Items of
// the same panels are consecutive: the panels stay in L2.
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

// Floats in a vector, which is the width of a panel.
extern "C" __attribute__((visibility("default"))) int atoll_width() { return W; }
