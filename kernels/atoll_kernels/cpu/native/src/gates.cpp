// What recurrent layers make of a projection before their states change: time steps or decays, and
// strengths of writing.

#include "row_loops.h"

using namespace kernels;

namespace {

// Filled by atoll_kernels/cpu/gates.py: out = clamp(scale softplus(x + bias)), and, if there is an
// `open`, opened = sigmoid(open). bias, scale: (width,) floats or 0. out, opened: (rows, width) floats.
struct GatesArgs {
    int64_t is_bf16, threads, x, bias, scale, open, out, opened;
    int64_t rows, width, x_row, open_row;
    double low, high;
};

template <class T>
void run(const GatesArgs& a) {
    const float *bias = (const float*)a.bias, *scale = (const float*)a.scale;
    const Floats low = splat((float)a.low), high = splat((float)a.high);
    for_rows(a.rows, 4 * a.width, a.threads, [&](int64_t r) {
        const T* x = (const T*)a.x + r * a.x_row;
        float* out = (float*)a.out + r * a.width;
        for_vectors(a.width, [&](int64_t i, auto n) {
            Floats y = read(x + i, n);
            if (bias) y += read(bias + i, n);
            y = softplus(y);
            if (scale) y *= read(scale + i, n);
            write(out + i, min(high, max(low, y)), n);
        });
        if (!a.open) return;
        const T* open = (const T*)a.open + r * a.open_row;
        float* opened = (float*)a.opened + r * a.width;
        for_vectors(a.width, [&](int64_t i, auto n) {
            write(opened + i, sigmoid(read(open + i, n)), n);
        });
    });
}

}  // namespace

extern "C" __attribute__((visibility("default"))) void atoll_gates(const GatesArgs* args) {
    args->is_bf16 ? run<bf16>(*args) : run<float>(*args);
}
