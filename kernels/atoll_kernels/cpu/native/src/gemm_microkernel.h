// The GEMM microkernel: the product of a few rows with packed columns. Operands are 32-bit words; a
// word is one float, two bfloat16 or four bytes of the inner dimension, and a policy multiplies a word
// of A by W words of B.
#pragma once

#include "simd.h"

namespace kernels {

struct Float32 {
    static constexpr int kPerWord = 1;
    static INLINE Floats step(Floats acc, uint32_t a, Words b) {
        float x;
        std::memcpy(&x, &a, 4);
        return acc + splat(x) * (Floats)b;
    }
};

#if defined(__AVX512BF16__)
struct Bfloat16 {
    static constexpr int kPerWord = 2;
    static INLINE Floats step(Floats acc, uint32_t a, Words b) {
        return (Floats)_mm512_dpbf16_ps((__m512)acc, (__m512bh)splat((int32_t)a), (__m512bh)b);
    }
};
#endif

#if defined(__AVX512F__)
constexpr int kTileRows = 8;
#else
constexpr int kTileRows = 4;  // 16 registers: 4 x 2 sums and their operands
#endif

// c[R, V * W] (+)= a[R, k] * b[k, V * W]; b is in panels of W columns: panel p at b + p * panel.
// ahead: the next b, which is prefetched into L2 meanwhile, or null.
template <class Policy, int R, int V>
INLINE void tile(const uint32_t* a, int64_t lda, const uint32_t* b, int64_t panel, int64_t k,
                 Floats* c, int64_t ldc, bool accumulate, const uint32_t* ahead) {
    Floats sums[R][V];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) sums[r][v] = accumulate ? c[r * ldc + v] : Floats{};
    for (int64_t i = 0; i < k; ++i) {
        Words columns[V];
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) {
            columns[v] = load_raw<Words>(b + v * panel + i * W);
            if (ahead) __builtin_prefetch(ahead + v * panel + i * W, 0, 2);
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
            for (int v = 0; v < V; ++v)
                sums[r][v] = Policy::step(sums[r][v], a[r * lda + i], columns[v]);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) c[r * ldc + v] = sums[r][v];
}

template <class Policy, int R>
void tile_row(const uint32_t* a, int64_t lda, const uint32_t* b, int64_t panel, int64_t k,
              Floats* c, int64_t ldc, int64_t panels, bool accumulate, const uint32_t* ahead) {
    int64_t p = 0;
    for (; p + 2 <= panels; p += 2)
        tile<Policy, R, 2>(a, lda, b + p * panel, panel, k, c + p, ldc, accumulate, ahead);
    if (p < panels)
        tile<Policy, R, 1>(a, lda, b + p * panel, panel, k, c + p, ldc, accumulate, ahead);
}

// c (rows <= kTileRows, panels of W) (+)= a (rows, k words) * b (panels, k, W); ldc in vectors.
template <class Policy, int R = kTileRows>
INLINE void multiply(int64_t rows, const uint32_t* a, int64_t lda, const uint32_t* b,
                     int64_t panel, int64_t k, Floats* c, int64_t ldc,
                     int64_t panels, bool accumulate, const uint32_t* ahead) {
    if (rows == R)
        return tile_row<Policy, R>(a, lda, b, panel, k, c, ldc, panels, accumulate, ahead);
    if constexpr (R > 1)
        multiply<Policy, R - 1>(rows, a, lda, b, panel, k, c, ldc, panels, accumulate, ahead);
}

}  // namespace kernels
