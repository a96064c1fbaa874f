// act(x @ weight.T + bias): products of tiles with packed weights, finished in registers. Weights are
// float32, bfloat16, or int8 with a scale per output, for which rows of x become bytes first.

#include "epilogue.h"
#include "quantize.h"
#include "scratch.h"
#include "tile.h"

using namespace kernels;

namespace {

constexpr int64_t kRows = 64;  // rows of an item: what a panel of weights is read for

// Filled by atoll_kernels/cpu/linear_native.py. weight: panels (words of inputs, W outputs). bias
// (or 0): floats. For int8, scales: floats, and sums: the weights' codes added up, times 128; both
// by output. All are padded to whole panels.
struct LinearArgs {
    int64_t x, weight, scales, sums, bias, out;
    int64_t rows, width, outs, x_row, kind, is_int8, is_bf16, threads;
};

template <class T, class Acc, class Function>
INLINE void finish(const LinearArgs& a, const Acc* c, int64_t rows, int64_t row, int64_t panel,
                   const float* row_scales, const Function& function) {
    const int64_t first = panel * W, n = std::min<int64_t>(W, a.outs - first);
    const Floats bias = a.bias ? load((const float*)a.bias + first) : Floats{};
    Floats scales = {};
    Ints sums = {};
    if (a.is_int8) {
        scales = load((const float*)a.scales + first);
        sums = load_raw<Ints>((const int32_t*)a.sums + first);
    }
    for (int64_t r = 0; r < rows; ++r) {
        Floats y;
        if constexpr (std::is_same_v<Acc, Ints>)
            y = __builtin_convertvector(c[2 * r] - sums, Floats) * (scales * splat(row_scales[r]));
        else
            y = c[2 * r];
        y = function(y + bias);
        T* out = (T*)a.out + (row + r) * a.outs + first;
        n == W ? store(out, y) : store(out, y, n);
    }
}

// x: rows of `x_words` words. An item is some rows and some panels, so that few rows are many too.
template <class Policy, class T>
void product(const LinearArgs& a, const uint32_t* x, int64_t x_words, const float* row_scales) {
    const int64_t words = (a.width + Policy::kPerWord - 1) / Policy::kPerWord;
    const int64_t panels = (a.outs + W - 1) / W, pairs = (panels + 1) / 2;
    const int64_t row_items = (a.rows + kRows - 1) / kRows;
    const int64_t cuts = std::clamp<int64_t>(8 * a.threads / row_items, 1, pairs);
    const bool serial = a.threads < 2 || a.rows * a.width * a.outs < (1 << 18);
    with_activation(a.kind, [&](const auto& function) {
        const auto item = [&](int64_t i) {
            const int64_t first = i / cuts * kRows, last = std::min(first + kRows, a.rows);
            const int64_t end = pairs * (i % cuts + 1) / cuts;
            for (int64_t p = pairs * (i % cuts) / cuts; p < end; ++p) {
                const int64_t count = std::min<int64_t>(2, panels - 2 * p);
                const uint32_t* weight = (const uint32_t*)a.weight + 2 * p * words * W;
                for (int64_t r = first; r < last; r += kTileRows) {
                    const int64_t rows = std::min<int64_t>(kTileRows, last - r);
                    typename Policy::Acc c[kTileRows * 2];
                    multiply<Policy>(rows, x + r * x_words, x_words, weight, words * W, words, c, 2,
                                     count, false);
                    for (int64_t v = 0; v < count; ++v)
                        finish<T>(a, c + v, rows, r, 2 * p + v, row_scales + r, function);
                }
            }
        };
        if (serial) {
            for (int64_t i = 0; i < row_items * cuts; ++i) item(i);
        } else {
#pragma omp parallel for schedule(dynamic, 1) num_threads(a.threads)
            for (int64_t i = 0; i < row_items * cuts; ++i) item(i);
        }
    });
}

template <class T>
void product_int8(const LinearArgs& a) {
    const int64_t words = (a.width + 3) / 4;
    Scratch scratch;
    auto codes = scratch.take<uint32_t>(a.rows * words);
    auto scales = scratch.take<float>(a.rows);
    for_rows(a.rows, a.width, a.threads, [&](int64_t r) {
        scales[r] = quantize_row((const T*)a.x + r * a.x_row, a.width, (uint8_t*)(codes + r * words));
    });
    product<Int8, T>(a, codes, words, scales);
}

}  // namespace

extern "C" __attribute__((visibility("default"))) void atoll_linear(const LinearArgs* args) {
    const LinearArgs& a = *args;
    if (a.rows == 0) return;
    if (a.is_int8) return a.is_bf16 ? product_int8<bf16>(a) : product_int8<float>(a);
    const auto x = (const uint32_t*)a.x;
#if defined(__AVX512BF16__)
    if (a.is_bf16) return product<Bfloat16, bf16>(a, x, a.x_row / 2, nullptr);
#endif
    product<Float32, float>(a, x, a.x_row, nullptr);
}

// Floats in a vector: the width of a panel.
extern "C" __attribute__((visibility("default"))) int atoll_width() { return W; }
