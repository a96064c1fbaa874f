// Vectors as wide as the registers of the instruction set that this file is compiled for, and the
// arithmetic that the kernels share. It is written with GCC's vector extensions, so that the portable
// build runs the same code; intrinsics are used where GCC generates bad code.
#pragma once

#include <cstdint>
#include <cstring>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define INLINED __attribute__((always_inline))  // for lambdas, which GCC may otherwise call
#define INLINE inline INLINED

namespace kernels {

#if defined(__AVX512F__)
constexpr int W = 16;
#elif defined(__AVX2__)
constexpr int W = 8;
#else
constexpr int W = 4;
#endif

typedef float Floats __attribute__((vector_size(W * 4)));
typedef int32_t Ints __attribute__((vector_size(W * 4)));
typedef uint32_t Words __attribute__((vector_size(W * 4)));
typedef uint8_t Bytes __attribute__((vector_size(W)));
typedef int8_t SignedBytes __attribute__((vector_size(W)));
typedef uint16_t Halves __attribute__((vector_size(W * 2)));

struct bf16 {
    uint16_t bits;
};

// GCC would insert the elements one by one; hence the intrinsics.
#if defined(__AVX512F__)
INLINE Floats splat(float x) { return (Floats)_mm512_set1_ps(x); }
INLINE Ints splat(int32_t x) { return (Ints)_mm512_set1_epi32(x); }
#elif defined(__AVX2__)
INLINE Floats splat(float x) { return (Floats)_mm256_set1_ps(x); }
INLINE Ints splat(int32_t x) { return (Ints)_mm256_set1_epi32(x); }
#else
INLINE Floats splat(float x) { return Floats{x, x, x, x}; }
INLINE Ints splat(int32_t x) { return Ints{x, x, x, x}; }
#endif

INLINE Ints iota(int32_t start) {
    alignas(64) static constexpr int32_t kUp[16] = {0, 1, 2,  3,  4,  5,  6,  7,
                                                    8, 9, 10, 11, 12, 13, 14, 15};
    Ints r;
    std::memcpy(&r, kUp, sizeof r);
    return r + splat(start);
}

template <class V>
INLINE V load_raw(const void* p) {
    V r;
    std::memcpy(&r, p, sizeof r);
    return r;
}

template <class V>
INLINE void store_raw(void* p, V v) {
    std::memcpy(p, &v, sizeof v);
}

// The first n < W elements of Size bytes; the rest is zero.
template <class V, int Size>
INLINE V load_some(const void* p, int64_t n) {
    V r = {};
    std::memcpy(&r, p, n * Size);
    return r;
}

// GCC would convert bytes one by one, and halves in two parts; hence the intrinsics.
#if defined(__AVX512F__)
INLINE Words to_words(Halves h) { return (Words)_mm512_cvtepu16_epi32((__m256i)h); }
INLINE Halves to_halves(Words x) { return (Halves)_mm512_cvtepi32_epi16((__m512i)x); }
INLINE Ints widen(Bytes b) { return (Ints)_mm512_cvtepu8_epi32((__m128i)b); }
INLINE Ints widen(SignedBytes b) { return (Ints)_mm512_cvtepi8_epi32((__m128i)b); }
INLINE SignedBytes to_bytes(Ints x) { return (SignedBytes)_mm512_cvtepi32_epi8((__m512i)x); }
#else
INLINE Words to_words(Halves h) { return __builtin_convertvector(h, Words); }
INLINE Halves to_halves(Words x) { return __builtin_convertvector(x, Halves); }
INLINE Ints widen(Bytes b) { return __builtin_convertvector(b, Ints); }
INLINE Ints widen(SignedBytes b) { return __builtin_convertvector(b, Ints); }
INLINE SignedBytes to_bytes(Ints x) { return __builtin_convertvector(x, SignedBytes); }
#endif
INLINE Floats widen(Halves h) { return (Floats)(to_words(h) << 16); }
INLINE Floats to_floats(Ints x) { return __builtin_convertvector(x, Floats); }

// Round to nearest, ties to even, as the hardware's conversion does.
INLINE Halves narrow(Floats x) {
#if defined(__AVX512BF16__)
    return (Halves)_mm512_cvtneps_pbh((__m512)x);
#else
    Words u = (Words)x;
    u += 0x7fff + ((u >> 16) & 1);
    return to_halves(u >> 16);
#endif
}

INLINE Floats load(const float* p) { return load_raw<Floats>(p); }
INLINE Floats load(const bf16* p) { return widen(load_raw<Halves>(p)); }
INLINE Floats load(const float* p, int64_t n) { return load_some<Floats, 4>(p, n); }
INLINE Floats load(const bf16* p, int64_t n) { return widen(load_some<Halves, 2>(p, n)); }
INLINE void store(float* p, Floats x) { store_raw(p, x); }
INLINE void store(bf16* p, Floats x) { store_raw(p, narrow(x)); }
INLINE void store(float* p, Floats x, int64_t n) { std::memcpy(p, &x, n * 4); }
INLINE void store(bf16* p, Floats x, int64_t n) {
    Halves h = narrow(x);
    std::memcpy(p, &h, n * 2);
}

// Two adjacent vectors; in one store where they fill a cache line.
INLINE void store_pair(float* p, Floats x, Floats y) { store(p, x), store(p + W, y); }
INLINE void store_pair(bf16* p, Floats x, Floats y) {
#if defined(__AVX512BF16__)
    store_raw(p, (__m512i)_mm512_cvtne2ps_pbh((__m512)y, (__m512)x));
#else
    store(p, x), store(p + W, y);
#endif
}

// x after a round trip through the element type of the pointer.
INLINE Floats rounded(Floats x, const float*) { return x; }
INLINE Floats rounded(Floats x, const bf16*) { return widen(narrow(x)); }

// The elements of p at these indices.
INLINE Floats gather(const float* p, Ints at) {
#if defined(__AVX512F__)
    return (Floats)_mm512_i32gather_ps((__m512i)at, p, 4);
#elif defined(__AVX2__)
    return (Floats)_mm256_i32gather_ps(p, (__m256i)at, 4);
#else
    Floats r;
    for (int i = 0; i < W; ++i) r[i] = p[at[i]];
    return r;
#endif
}

INLINE Floats max(Floats a, Floats b) {
#if defined(__AVX512F__)
    return (Floats)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
    return (Floats)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return a > b ? a : b;
#endif
}

INLINE Floats min(Floats a, Floats b) { return -max(-a, -b); }
INLINE Floats abs(Floats x) { return (Floats)((Ints)x & splat(0x7fffffff)); }

#if defined(__AVX512F__)
INLINE float sum(Floats x) { return _mm512_reduce_add_ps((__m512)x); }
INLINE int32_t sum(Ints x) { return _mm512_reduce_add_epi32((__m512i)x); }
INLINE float largest(Floats x) { return _mm512_reduce_max_ps((__m512)x); }
#else
INLINE float sum(Floats x) {
    float r = 0;
    for (int i = 0; i < W; ++i) r += x[i];
    return r;
}
INLINE int32_t sum(Ints x) {
    int32_t r = 0;
    for (int i = 0; i < W; ++i) r += x[i];
    return r;
}
INLINE float largest(Floats x) {
    float r = x[0];
    for (int i = 1; i < W; ++i) r = x[i] > r ? x[i] : r;
    return r;
}
#endif

constexpr float kRounder = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer

// (2^f - 1) / f for -0.5 <= f <= 0.5: a fitted polynomial.
INLINE Floats exp2_slope(Floats f) {
    Floats p = splat(1.3264727e-3f);
    p = p * f + splat(9.6715126e-3f);
    p = p * f + splat(5.5507337e-2f);
    p = p * f + splat(2.4022242e-1f);
    return p * f + splat(6.9314698e-1f);
}

// 2^x for -126 <= x <= 127, relative error 1.7e-7.
INLINE Floats exp2_in_range(Floats x) {
    const Floats shifted = x + splat(kRounder), f = x - (shifted - splat(kRounder));
    const Floats p = exp2_slope(f) * f + splat(1.0f);
    return (Floats)((Ints)p + ((Ints)shifted << 23));
}

// The same for any x <= 127; results below 2^-126 become 2^-126. In this order, NaN stays NaN.
INLINE Floats exp2(Floats x) { return exp2_in_range(max(splat(-126.0f), x)); }

constexpr float kLog2e = 1.44269504f;

INLINE Floats sigmoid(Floats x) {
    Floats t = exp2(max(splat(-80.0f), x) * splat(-kLog2e));
    return splat(1.0f) / (splat(1.0f) + t);
}

// t / (t + 2) with t = e^2x - 1 = 2^n (2^f - 1) + (2^n - 1), which loses no digits near 0.
INLINE Floats tanh(Floats x) {
    const Floats y = min(splat(10.0f), max(splat(-10.0f), x)) * splat(2 * kLog2e);
    const Floats shifted = y + splat(kRounder), f = y - (shifted - splat(kRounder));
    const Floats power = (Floats)(((Ints)shifted << 23) + splat(0x3f800000));
    const Floats t = power * (exp2_slope(f) * f) + (power - splat(1.0f));
    return t / (t + splat(2.0f));
}

INLINE Floats silu(Floats x) { return x * sigmoid(x); }

// log(1 + e^x) = max(0, x) + log(1 + t) with t = e^-|x| <= 1; the logarithm is 2 artanh(t / (2 + t)),
// whose series ends when its terms are below 2e-8.
INLINE Floats softplus(Floats x) {
    const Floats t = exp2(abs(x) * splat(-kLog2e)), s = t / (t + splat(2.0f)), q = s * s;
    Floats p = splat(2.0f / 15);
    for (int n = 13; n > 0; n -= 2) p = p * q + splat(2.0f / n);
    return max(Floats{}, x) + s * p;
}

// 0.5 x (1 + tanh(u)) = x sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3)
INLINE Floats gelu_tanh(Floats x) {
    return x * sigmoid(splat(1.59576912f) * x * (splat(1.0f) + splat(0.044715f) * x * x));
}

// x P(X < x) for normal X, as max(0, x) - |x| P(X < -|x|). The base-2 logarithm of that probability is
// a polynomial fitted on [-6, 0]; the error is 8e-8 (1 + |y|).
INLINE Floats gelu(Floats x) {
    const Floats b = max(splat(-6.0f), (Floats)((Ints)x | splat(INT32_MIN)));  // -|x|
    Floats p = splat(3.4037516e-5f);
    p = p * b + splat(7.7615523e-4f);
    p = p * b + splat(8.0994792e-3f);
    p = p * b + splat(5.3435267e-2f);
    p = p * b + splat(-4.5875799e-1f);
    p = p * b + splat(1.1512044f);
    p = p * b + splat(-9.9999297e-1f);
    return max(Floats{}, x) + b * exp2_in_range(p);
}

}  // namespace kernels
