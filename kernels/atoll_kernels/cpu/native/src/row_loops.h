// Loops over the rows of a matrix, for norms, activations and quantization.
#pragma once

#include <type_traits>

#include "thread_pool.h"
#include "simd.h"

namespace kernels {

constexpr int64_t kSerialElements = 1 << 15;  // below this, threads cost more than they save

// Calls body(row) for every row, on several threads if there is enough work.
template <class Body>
INLINE void for_rows(int64_t rows, int64_t width, int64_t threads, const Body& body) {
    for_tasks({rows, threads}, rows * width < kSerialElements, body);
}

// Calls body(offset, n) for every vector of a row; n < W in the last if W does not divide the width.
// In all others n is a compile-time constant, so that the code for partial vectors is removed.
template <class Body>
INLINE void for_vectors(int64_t width, const Body& body) {
    int64_t i = 0;
    for (; i + W <= width; i += W) body(i, std::integral_constant<int64_t, W>{});
    if (i < width) body(i, width - i);
}

template <class T>
INLINE Floats read(const T* p, int64_t n) {
    return n == W ? load(p) : load(p, n);
}

template <class T>
INLINE void write(T* p, Floats x, int64_t n) {
    n == W ? store(p, x) : store(p, x, n);
}

}  // namespace kernels
