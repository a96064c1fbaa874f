// Rows of keys or values that are fetched from memory before they are needed. Processors fetch ahead
// by themselves only along one run of memory, and the blocks of a cache lie anywhere.
#pragma once

#include <algorithm>

#include "simd.h"

namespace kernels {

constexpr int64_t kBlock = 256;      // keys that are looked at together
constexpr int64_t kAhead = 2 * W;    // keys that are fetched before they are read

template <class T>
INLINE void fetch(const T* row, int64_t width) {
    for (int64_t i = 0; i < width; i += 64 / sizeof(T)) __builtin_prefetch(row + i);
}

// Rows [first, last) of those at `rows`, of which there are count.
template <class T>
INLINE void fetch(const T* const* rows, int64_t first, int64_t last, int64_t count, int64_t width) {
    for (last = std::min(last, count); first < last; ++first) fetch(rows[first], width);
}

// Rows that a thread will probably want next: `count` of them are left to be fetched.
template <class T>
struct Prefetched {
    const T* rows[kBlock];
    int64_t count = 0;

    // Into the second cache: in the first it would take the place of what is being read.
    INLINE void fetch(int64_t most, int64_t width) {
        for (most = std::min(most, count); most > 0; --most) {
            const T* row = rows[--count];
            for (int64_t i = 0; i < width; i += 64 / sizeof(T)) __builtin_prefetch(row + i, 0, 2);
        }
    }
};

}  // namespace kernels
