// RMSNorm of groups of features, with or without a gate, which is applied before it or after it.

#include <cmath>

#include "row_loops.h"
#include "scratch.h"

using namespace kernels;

namespace {

// Filled by atoll_kernels/cpu/norm.py. gate: 0 if there is none. weight: of all features, or of one
// group if has_one_weight.
struct GatedNormArgs {
    int64_t is_bf16, threads, x, gate, weight, out;
    int64_t rows, groups, size, x_row, gate_row;
    int64_t has_one_weight, is_weight_bf16, is_gate_first;
    double eps;
};

template <class T, class Weight>
void normalize(const GatedNormArgs& a) {
    // The gate costs several times as much per element as the norm.
    for_rows(a.rows * a.groups, 4 * a.size, a.threads, [&](int64_t i) {
        const int64_t row = i / a.groups, first = i % a.groups * a.size;
        const T* x = (const T*)a.x + row * a.x_row + first;
        const T* gate = a.gate ? (const T*)a.gate + row * a.gate_row + first : nullptr;
        const Weight* weight = (const Weight*)a.weight + (a.has_one_weight ? 0 : first);
        T* out = (T*)a.out + i * a.size;
        Scratch scratch;
        float* wide = scratch.take<float>(a.size);
        Floats squares = {};
        for_vectors(a.size, [&](int64_t j, auto n) {
            Floats y = read(x + j, n);
            if (a.is_gate_first) y *= silu(read(gate + j, n));
            write(wide + j, y, n);
            squares += y * y;  // what `read` gives beyond the last element is zero
        });
        const Floats inverse = splat(1.0f / std::sqrt(sum(squares) / a.size + (float)a.eps));
        for_vectors(a.size, [&](int64_t j, auto n) {
            // transformers rounds to the scale's dtype before it scales, and after that.
            Floats y = rounded(read(wide + j, n) * inverse, weight);
            y = rounded(y * read(weight + j, n), weight);
            if (gate && !a.is_gate_first) y *= silu(read(gate + j, n));
            write(out + j, y, n);
        });
    });
}

}  // namespace

extern "C" __attribute__((visibility("default"))) void atoll_gated_norm(const GatedNormArgs* args) {
    if (!args->is_bf16) return normalize<float, float>(*args);
    args->is_weight_bf16 ? normalize<bf16, bf16>(*args) : normalize<bf16, float>(*args);
}
