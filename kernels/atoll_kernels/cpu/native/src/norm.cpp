// LayerNorm and RMSNorm of x + residual; statistics in float32 over the sum as it is stored.

#include <cmath>

#include "row_loops.h"

using namespace kernels;

namespace {

// Filled by atoll_kernels/cpu/norm.py. Without a residual, total is not written: the sum is x itself.
struct NormArgs {
    int64_t is_bf16, threads, x, residual, weight, bias, out, total;
    int64_t rows, width, x_row, residual_row, is_rms;
    int64_t is_weight_bf16;  // false: float32, whatever x is
    double eps;
};

template <class T, class Weight>
void normalize(const NormArgs& a) {
    for_rows(a.rows, a.width, a.threads, [&](int64_t r) {
        const T* x = (const T*)a.x + r * a.x_row;
        T* out = (T*)a.out + r * a.width;
        if (a.residual) {
            const T* residual = (const T*)a.residual + r * a.residual_row;
            T* total = (T*)a.total + r * a.width;
            for_vectors(a.width, [&](int64_t i, auto n) {
                write(total + i, read(x + i, n) + read(residual + i, n), n);
            });
            x = total;
        }
        Floats sums = {}, squares = {};
        float mean = 0;
        if (!a.is_rms) {
            // Relative to the first element: sums of values far from zero would lose digits.
            const float first = read(x, 1)[0];
            for_vectors(a.width, [&](int64_t i, auto n) {
                Floats d = read(x + i, n) - splat(first);
                if (n < W) d = iota(0) < splat((int32_t)n) ? d : Floats{};
                sums += d;
            });
            mean = first + sum(sums) / a.width;
        }
        const Floats center = splat(mean);
        for_vectors(a.width, [&](int64_t i, auto n) {
            Floats d = read(x + i, n) - center;
            if (n < W) d = iota(0) < splat((int32_t)n) ? d : Floats{};
            squares += d * d;
        });
        const Floats inverse = splat(1.0f / std::sqrt(sum(squares) / a.width + (float)a.eps));
        const Weight* weight = (const Weight*)a.weight;
        const T* bias = (const T*)a.bias;
        for_vectors(a.width, [&](int64_t i, auto n) {
            Floats y = (read(x + i, n) - center) * inverse;
            // transformers' RMSNorm rounds to the scale's dtype before it scales.
            if (a.is_rms) y = rounded(y, weight);
            if (weight) y *= read(weight + i, n);
            if (bias) y += read(bias + i, n);
            write(out + i, y, n);
        });
    });
}

}  // namespace

extern "C" __attribute__((visibility("default"))) void atoll_norm(const NormArgs* args) {
    if (!args->is_bf16) return normalize<float, float>(*args);
    args->is_weight_bf16 ? normalize<bf16, bf16>(*args) : normalize<bf16, float>(*args);
}
