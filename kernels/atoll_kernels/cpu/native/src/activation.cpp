// Activations of every element, and gated units: act(x) * factor, where both may be parts of a row.

#include "epilogue.h"
#include "row_loops.h"

using namespace kernels;

namespace {

// Filled by atoll_kernels/cpu/activation.py. factor: of a gated unit, or 0. width: of x, factor and out.
struct ActivationArgs {
    int64_t is_bf16, threads, x, factor, out, rows, width, x_row, factor_row, kind;
};

template <class T, class Function>
void apply(const ActivationArgs& a, const Function& function) {
    // An activation costs several times as much per element as a norm.
    for_rows(a.rows, 4 * a.width, a.threads, [&](int64_t r) {
        const T* x = (const T*)a.x + r * a.x_row;
        const T* factor = a.factor ? (const T*)a.factor + r * a.factor_row : nullptr;
        T* out = (T*)a.out + r * a.width;
        for_vectors(a.width, [&](int64_t i, auto n) {
            Floats y = function(read(x + i, n));
            if (factor) y = rounded(y, x) * factor_of(read(factor + i, n), a.kind);
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
