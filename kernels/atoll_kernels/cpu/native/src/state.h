// The element types that a recurrent state can be stored in; it is computed in float32.
#pragma once

#include "simd.h"

namespace kernels {

struct f16 {
    uint16_t bits;
};

// As numbered in atoll_kernels/cpu/recurrent.py.
enum StateKind : int64_t { kFloat32, kBfloat16, kFloat16 };

// Calls body(S{}) with the element type.
template <class Body>
INLINE void with_state(int64_t kind, const Body& body) {
    kind == kFloat16 ? body(f16{}) : kind == kBfloat16 ? body(bf16{}) : body(float{});
}

#if defined(__AVX512F__)
INLINE Floats from_f16(Halves h) { return (Floats)_mm512_cvtph_ps((__m256i)h); }
INLINE Halves to_f16(Floats x) { return (Halves)_mm512_cvtps_ph((__m512)x, 0); }
#elif defined(__F16C__)
INLINE Floats from_f16(Halves h) { return (Floats)_mm256_cvtph_ps((__m128i)h); }
INLINE Halves to_f16(Floats x) { return (Halves)_mm256_cvtps_ph((__m256)x, 0); }
#else
// Of the 5 bits of the exponent, all set mean inf or NaN.
INLINE Floats from_f16(Halves h) {
    const Words wide = to_words(h), bits = (wide & 0x7fff) << 13;
    const Words finite = (Words)((Floats)bits * splat(0x1p112f));
    const Words found = (wide & 0x7c00) == 0x7c00 ? bits | 0x7f800000 : finite;
    return (Floats)(found | (wide & 0x8000) << 16);
}
// Rounds to nearest, ties to even; adding 0.5 rounds what is below 2^-14 to a multiple of 2^-24.
INLINE Halves to_f16(Floats x) {
    const Words bits = (Words)x & 0x7fffffff, sign = (Words)x >> 16 & 0x8000;
    const Words tiny = (Words)((Floats)bits + splat(0.5f)) - 0x3f000000;
    const Words normal = (bits - 0x38000000 + 0xfff + (bits >> 13 & 1)) >> 13;
    const Words small = bits < 0x38800000 ? tiny : normal;
    const Words large = bits > 0x7f800000 ? (bits >> 13 & 0x3ff) | 0x7e00 : bits * 0 + 0x7c00;
    return to_halves((bits < 0x47800000 ? small : large) | sign);
}
#endif

INLINE Floats load(const f16* p) { return from_f16(load_raw<Halves>(p)); }
INLINE Floats load(const f16* p, int64_t n) { return from_f16(load_some<Halves, 2>(p, n)); }
INLINE void store(f16* p, Floats x) { store_raw(p, to_f16(x)); }
INLINE void store(f16* p, Floats x, int64_t n) {
    Halves h = to_f16(x);
    std::memcpy(p, &h, n * 2);
}

}  // namespace kernels
