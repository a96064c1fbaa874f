// Prefetching of keys and values. The hardware prefetcher follows contiguous memory only, and the
// blocks of a KV cache may be anywhere.
#pragma once

#include <algorithm>

#include "simd.h"

namespace kernels {

constexpr int64_t kBlock = 256;    // keys that are processed together
constexpr int64_t kAhead = 2 * W;  // prefetch distance, in keys

template <class T>
INLINE void fetch(const T* row, int64_t width) {
    for (int64_t i = 0; i < width; i += 64 / sizeof(T)) __builtin_prefetch(row + i);
}

// Rows [first, last) of `count` rows.
template <class T>
INLINE void fetch(const T* const* rows, int64_t first, int64_t last, int64_t count, int64_t width) {
    for (last = std::min(last, count); first < last; ++first) fetch(rows[first], width);
}

// Rows that a thread will probably read next; `count` of them are still to be prefetched.
template <class T>
struct Prefetched {
    const T* rows[kBlock];
    int64_t count = 0;

    // Into L2: in L1 they would evict what is being read.
    INLINE void fetch(int64_t most, int64_t width) {
        for (most = std::min(most, count); most > 0; --most) {
            const T* row = rows[--count];
            for (int64_t i = 0; i < width; i += 64 / sizeof(T)) __builtin_prefetch(row + i, 0, 2);
        }
    }
};

}  // namespace kernels
