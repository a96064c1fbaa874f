// act(x @ weight.T + bias) with int8 weights: rows of x become bytes, products are summed in 32 bits,
// and scales, bias and activation are applied while the sums are in registers.

#include "epilogue.h"
#include "quantize.h"
#include "scratch.h"
#include "tile.h"

using namespace kernels;

namespace {

constexpr int64_t kRows = 64;  // rows of an item: what a panel of weights is read for

// Filled by atoll_kernels/cpu/linear_native.py. weight: panels (width / 4 words, W outputs). scales
// and bias (or 0): outs floats; sums: outs integers, of the weights' codes, times 128. All are
// padded to whole panels.
struct Int8Args {
    int64_t x, weight, scales, sums, bias, out;
    int64_t rows, width, outs, x_row, kind, is_bf16, threads;
};

template <class T, class Function>
INLINE void finish(const Int8Args& a, const Ints* c, int64_t rows, int64_t row, int64_t panel,
                   const float* row_scales, const Function& function) {
    const int64_t first = panel * W, n = std::min<int64_t>(W, a.outs - first);
    const Floats scales = load((const float*)a.scales + first);
    const Ints sums = load_raw<Ints>((const int32_t*)a.sums + first);
    const Floats bias = a.bias ? load((const float*)a.bias + first) : Floats{};
    for (int64_t r = 0; r < rows; ++r) {
        const Floats wide = __builtin_convertvector(c[2 * r] - sums, Floats);
        const Floats y = function(wide * (scales * splat(row_scales[r])) + bias);
        T* out = (T*)a.out + (row + r) * a.outs + first;
        n == W ? store(out, y) : store(out, y, n);
    }
}

template <class T>
void product(const Int8Args& a) {
    if (a.rows == 0) return;
    const int64_t words = (a.width + 3) / 4, panels = (a.outs + W - 1) / W;
    Scratch scratch;
    auto codes = scratch.take<uint32_t>(a.rows * words);
    auto scales = scratch.take<float>(a.rows);
    for_rows(a.rows, a.width, a.threads, [&](int64_t r) {
        scales[r] = quantize_row((const T*)a.x + r * a.x_row, a.width, (uint8_t*)(codes + r * words));
    });
    // An item: some rows and some panels, so that few rows are many items too.
    const int64_t row_items = (a.rows + kRows - 1) / kRows, pairs = (panels + 1) / 2;
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
                    Ints c[kTileRows * 2];
                    multiply<Int8>(rows, codes + r * words, words, weight, words * W, words, c, 2,
                                   count, false);
                    for (int64_t v = 0; v < count; ++v)
                        finish<T>(a, c + v, rows, r, 2 * p + v, scales + r, function);
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

}  // namespace

extern "C" __attribute__((visibility("default"))) void atoll_int8(const Int8Args* args) {
    args->is_bf16 ? product<bf16>(*args) : product<float>(*args);
}

// Floats in a vector: the width of a panel.
extern "C" __attribute__((visibility("default"))) int atoll_width() { return W; }
