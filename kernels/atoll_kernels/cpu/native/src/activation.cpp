// Activations of every element, and gated linear units: act(x[:, :n]) * x[:, n:].

#include "epilogue.h"
#include "row_loops.h"

using namespace kernels;

namespace {

// Filled by atoll_kernels/cpu/activation.py. out_width: of a row of out; x has twice it if is_gated.
struct ActivationArgs {
    int64_t is_bf16, threads, x, out, rows, out_width, x_row, kind, is_gated;
};

template <class T, class Function>
void apply(const ActivationArgs& a, const Function& function) {
    // An activation costs several times as much per element as a norm.
    for_rows(a.rows, 4 * a.out_width, a.threads, [&](int64_t r) {
        const T *gate = (const T*)a.x + r * a.x_row, *up = gate + a.out_width;
        T* out = (T*)a.out + r * a.out_width;
        for_vectors(a.out_width, [&](int64_t i, auto n) {
            Floats y = function(read(gate + i, n));
            if (a.is_gated) y = rounded(y, gate) * factor_of(read(up + i, n), a.kind);
            write(out + i, y, n);
        });
    });
}

template <class T>
void choose(const ActivationArgs& a) {
    with_activation(a.kind, [&](const auto& function) { apply<T>(a, function); });
}

}  // namespace

extern "C" __attribute__((visibility("default"))) void atoll_activation(const ActivationArgs* args) {
    args->is_bf16 ? choose<bf16>(*args) : choose<float>(*args);
}
