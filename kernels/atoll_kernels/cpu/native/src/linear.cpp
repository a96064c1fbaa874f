// act(x @ weight.T + bias) in float32 or bfloat16: products of tiles with packed weights, finished in
// registers.

#include <algorithm>

#include "epilogue.h"
#include "rows.h"
#include "tile.h"
#include "tiles.h"

using namespace kernels;

namespace {

constexpr int64_t kRows = 64;  // rows of an item: what a panel of weights is read for

// Filled by atoll_kernels/cpu/linear_native.py. weight: panels (words of inputs, W outputs). bias
// (or 0): floats, padded to whole panels.
struct LinearArgs {
    int64_t x, weight, bias, out, rows, width, outs, x_row, kind, is_bf16, threads;
};

template <class T, class Function>
INLINE void finish(const LinearArgs& a, const Floats* c, int64_t rows, int64_t row, int64_t panel,
                   const Function& function) {
    const int64_t first = panel * W, n = std::min<int64_t>(W, a.outs - first);
    const Floats bias = a.bias ? load((const float*)a.bias + first) : Floats{};
    for (int64_t r = 0; r < rows; ++r) {
        const Floats y = function(c[2 * r] + bias);
        T* out = (T*)a.out + (row + r) * a.outs + first;
        n == W ? store(out, y) : store(out, y, n);
    }
}

// Rows of x, at most kRows, by some pairs of panels.
template <class Policy, class T, class Function>
void pairs_of_panels(const LinearArgs& a, bool tiled, int64_t first, int64_t last, int64_t pair,
                     int64_t end, const Function& function) {
    const auto x = (const uint32_t*)a.x;
    const int64_t words = a.width / Policy::kPerWord, x_words = a.x_row / Policy::kPerWord;
    const int64_t panels = (a.outs + W - 1) / W, step = tiled ? kMostRows : kTileRows;
    Tiles tiles;
    for (; pair < end; ++pair) {
        const int64_t count = std::min<int64_t>(2, panels - 2 * pair);
        const uint32_t* weight = (const uint32_t*)a.weight + 2 * pair * words * W;
        for (int64_t r = first; r < last; r += step) {
            const int64_t rows = std::min(step, last - r);
            Floats c[kMostRows * 2];
            multiply<Policy>(tiles, tiled, rows, x + r * x_words, x_words, weight, words * W, words,
                             c, 2, count, false);
            for (int64_t v = 0; v < count; ++v)
                finish<T>(a, c + v, rows, r, 2 * pair + v, function);
        }
    }
}

// An item is some rows and some panels, so that few rows are many too.
template <class Policy, class T>
void product(const LinearArgs& a) {
    const int64_t pairs = (a.outs + 2 * W - 1) / (2 * W);
    const int64_t row_items = (a.rows + kRows - 1) / kRows;
    const int64_t cuts = std::clamp<int64_t>(8 * a.threads / row_items, 1, pairs);
    const bool serial = a.threads < 2 || a.rows * a.width * a.outs < (1 << 18);
    const bool tiled = is_tiled<Policy>(a.rows, a.width / Policy::kPerWord);
    with_activation(a.kind, [&](const auto& function) {
        const auto item = [&](int64_t i) {
            const int64_t first = i / cuts * kRows, last = std::min(first + kRows, a.rows);
            const int64_t start = pairs * (i % cuts) / cuts, end = pairs * (i % cuts + 1) / cuts;
            pairs_of_panels<Policy, T>(a, tiled, first, last, start, end, function);
        };
        if (serial) {
            for (int64_t i = 0; i < row_items * cuts; ++i) item(i);
        } else {
#pragma omp parallel for schedule(dynamic, 1) num_threads(a.threads)
            for (int64_t i = 0; i < row_items * cuts; ++i) item(i);
        }
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
