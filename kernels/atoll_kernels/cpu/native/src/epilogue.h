// Activations, as the epilogue of a product or alone.
#pragma once

#include "simd.h"

namespace kernels {

// As numbered in atoll_kernels/activation.py.
enum Activation : int64_t {
    kNone, kGelu, kGeluTanh, kRelu, kSilu, kTanh, kGptOss, kRelu2, kQuickGelu
};

constexpr float kGptOssLimit = 7.0f, kGptOssAlpha = 1.702f, kQuickGeluAlpha = 1.702f;

// The gate of the gated unit, which is clamped first.
INLINE Floats gpt_oss(Floats x) {
    const Floats gate = min(splat(kGptOssLimit), x);
    return gate * sigmoid(splat(kGptOssAlpha) * gate);
}

INLINE Floats quick_gelu(Floats x) { return x * sigmoid(splat(kQuickGeluAlpha) * x); }

// Calls body(function) with the activation's function, so that it is chosen once per call.
template <class Body>
INLINE auto with_activation(int64_t kind, const Body& body) {
    switch (kind) {
        case kGelu: return body([](Floats x) INLINED { return gelu(x); });
        case kGeluTanh: return body([](Floats x) INLINED { return gelu_tanh(x); });
        case kRelu: return body([](Floats x) INLINED { return max(Floats{}, x); });
        case kSilu: return body([](Floats x) INLINED { return silu(x); });
        case kTanh: return body([](Floats x) INLINED { return tanh(x); });
        case kGptOss: return body([](Floats x) INLINED { return gpt_oss(x); });
        case kRelu2:
            return body([](Floats x) INLINED {
                const Floats positive = max(Floats{}, x);
                return positive * positive;
            });
        case kQuickGelu: return body([](Floats x) INLINED { return quick_gelu(x); });
        default: return body([](Floats x) INLINED { return x; });
    }
}

// Any activation of one vector.
INLINE Floats activated(Floats x, int64_t kind) {
    return with_activation(kind, [&](const auto& function) INLINED { return function(x); });
}

// What the activated gate of a gated unit is multiplied by.
INLINE Floats factor_of(Floats up, int64_t kind) {
    if (kind != kGptOss) return up;
    return max(splat(-kGptOssLimit), min(splat(kGptOssLimit), up)) + splat(1.0f);
}

}  // namespace kernels
