// Activations, as the epilogue of a product or alone.
#pragma once

#include "simd.h"

namespace kernels {

// As numbered in atoll_kernels/activation.py.
enum Activation : int64_t { kNone, kGelu, kGeluTanh, kRelu, kSilu, kTanh };

// Calls body(function) with the activation's function, so that it is chosen once per call.
template <class Body>
INLINE auto with_activation(int64_t kind, const Body& body) {
    switch (kind) {
        case kGelu: return body([](Floats x) INLINED { return gelu(x); });
        case kGeluTanh: return body([](Floats x) INLINED { return gelu_tanh(x); });
        case kRelu: return body([](Floats x) INLINED { return max(Floats{}, x); });
        case kSilu: return body([](Floats x) INLINED { return silu(x); });
        case kTanh: return body([](Floats x) INLINED { return tanh(x); });
        default: return body([](Floats x) INLINED { return x; });
    }
}

// Any activation of one vector.
INLINE Floats activated(Floats x, int64_t kind) {
    return with_activation(kind, [&](const auto& function) INLINED { return function(x); });
}

}  // namespace kernels
