// Where the sequences of a batch begin, and which rows of the state tensors are theirs.
#pragma once

#include <cstdint>

namespace kernels {

struct Sequence {
    int64_t first, count;  // tokens
    int64_t slot;          // a row of the state tensors; -1: a padded row
    bool is_new;           // begins at zero, whatever its slot holds
};

// Addresses of int32 arrays; without a cache, lengths and slots are 0. See atoll_kernels.Past.
struct Past {
    int64_t starts, lengths, slots;

    Sequence operator[](int64_t s) const {
        auto begins = (const int32_t*)starts;
        const int64_t first = begins[s], count = begins[s + 1] - first;
        if (!slots) return {first, count, 0, true};
        const int64_t length = ((const int32_t*)lengths)[s];
        return {first, count, ((const int32_t*)slots)[s], length == count};
    }
};

}  // namespace kernels
