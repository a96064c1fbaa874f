// What happens to a product before it is stored: an activation.
#pragma once

#include "simd.h"

namespace kernels {

// As numbered in atoll_kernels/activation.py.
enum Activation : int64_t { kNone, kGelu, kGeluTanh, kRelu, kSilu, kTanh };

// Calls body(function) with an activation, so that it is chosen once per call. kTanh is left to torch.
template <class Body>
INLINE auto with_activation(int64_t kind, const Body& body) {
    switch (kind) {
        case kGelu: return body([](Floats x) INLINED { return gelu(x); });
        case kGeluTanh: return body([](Floats x) INLINED { return gelu_tanh(x); });
        case kRelu: return body([](Floats x) INLINED { return max(Floats{}, x); });
        case kSilu: return body([](Floats x) INLINED { return silu(x); });
        default: return body([](Floats x) INLINED { return x; });
    }
}

// Any activation of one vector.
INLINE Floats activated(Floats x, int64_t kind) {
    if (kind == kTanh) return splat(2.0f) * sigmoid(splat(2.0f) * x) - splat(1.0f);
    return with_activation(kind, [&](const auto& function) INLINED { return function(x); });
}

}  // namespace kernels
