// What happens to a product before it is stored: an activation, chosen once per call.
#pragma once

#include "simd.h"

namespace kernels {

// Calls body(function) with the activation that atoll_kernels/cpu/activation.py numbers `kind`.
template <class Body>
INLINE void with_activation(int64_t kind, const Body& body) {
    switch (kind) {
        case 0: return body([](Floats x) INLINED { return gelu(x); });
        case 1: return body([](Floats x) INLINED { return gelu_tanh(x); });
        case 2: return body([](Floats x) INLINED { return silu(x); });
        case 3: return body([](Floats x) INLINED { return max(Floats{}, x); });
        default: return body([](Floats x) INLINED { return x; });
    }
}

}  // namespace kernels
