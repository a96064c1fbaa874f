// Rows of floats as bytes around 128, with a scale for each row.
#pragma once

#include <algorithm>

#include "rows.h"

namespace kernels {

constexpr float kLevels = 127;

// codes: width bytes, written up to a multiple of 4. Returns the row's scale; NaN and infinity make
// it NaN, and with it all that the row is multiplied by.
template <class T>
float quantize_row(const T* x, int64_t width, uint8_t* codes) {
    Floats top = {}, spoilt = {};
    for_vectors(width, [&](int64_t i, auto n) {
        const Floats v = read(x + i, n);
        top = max(top, abs(v));
        spoilt += v - v;
    });
    const float largest_value = std::max(largest(top), 1e-30f * kLevels);
    const Floats inverse = splat(kLevels / largest_value);
    const Floats magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
    for_vectors(width, [&](int64_t i, auto n) {
        const Floats shifted = read(x + i, n) * inverse + magic;
        const Bytes bytes = __builtin_convertvector((Ints)shifted + splat(128), Bytes);
        if (n == W)
            store_raw(codes + i, bytes);
        else
            std::memcpy(codes + i, &bytes, (n + 3) / 4 * 4);
    });
    return largest_value / kLevels + sum(spoilt);
}

}  // namespace kernels
