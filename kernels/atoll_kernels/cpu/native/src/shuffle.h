// Elements of two vectors in a new order. Places are constants of the type, so that the compiler
// picks an instruction for them: from a loop it would build them anew, element by element.
#pragma once

#include <utility>

#include "simd.h"

namespace kernels {

// Element i of the result is element Places::at(i) of a and b side by side.
template <class Places, class V, class Indexes, int... I>
INLINE V shuffled(V a, V b, std::integer_sequence<int, I...>) {
    return __builtin_shuffle(a, b, Indexes{Places::at(I)...});
}
template <class Places>
INLINE Floats shuffled(Floats a, Floats b) {
    return shuffled<Places, Floats, Ints>(a, b, std::make_integer_sequence<int, W>());
}
template <class Places>
INLINE Words shuffled(Words a, Words b) {
    return shuffled<Places, Words, Ints>(a, b, std::make_integer_sequence<int, W>());
}

// Of two rows Step apart, blocks of Step elements change places: what the first row becomes, and
// the second.
template <int Step>
struct Swapped {
    struct First {
        static constexpr int at(int i) { return i & Step ? W + i - Step : i; }
    };
    struct Second {
        static constexpr int at(int i) { return i & Step ? W + i : i + Step; }
    };
};

// W rows of W words each, turned around: word j of row i becomes word i of row j.
template <int Step = 1>
INLINE void transpose(Words (&x)[W]) {
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i) {
        if (i & Step) continue;
        const Words a = x[i], b = x[i + Step];
        x[i] = shuffled<typename Swapped<Step>::First>(a, b);
        x[i + Step] = shuffled<typename Swapped<Step>::Second>(a, b);
    }
    if constexpr (2 * Step < W) transpose<2 * Step>(x);
}

// The 16-bit halves of W words of a and of b in turns, within lanes of four words: of a lane's first
// or last two words.
template <int Last>
struct Interleaved {
    static constexpr int at(int i) {
        const int lane = i / 8 * 8, in_lane = i % 8;
        return (in_lane % 2 ? 2 * W : 0) + lane + in_lane / 2 + 4 * Last;
    }
};
template <int Last>
INLINE Words interleaved(Words a, Words b) {
    typedef uint16_t Both __attribute__((vector_size(W * 4)));
    return (Words)shuffled<Interleaved<Last>, Both, Both>(
        (Both)a, (Both)b, std::make_integer_sequence<int, 2 * W>());
}

// Lanes of four elements of a and of b in turns: of the first or the last half of each.
template <int Last>
struct Lanes {
    static constexpr int at(int i) {
        const int lane = i / 4;
        return (lane % 2 ? W : 0) + (lane / 2 + W / 8 * Last) * 4 + i % 4;
    }
};

// Halves of the summands of two vectors, Step vectors apart among those that sums_of adds up. An
// instruction does not leave its lanes of four as long as it need not.
template <int Step, int Half>
struct Summands {
    static constexpr int at(int i) {
        const int lane = i / 4 * 4, in_lane = i % 4;
        if (Step == 1) return (in_lane % 2 ? W : 0) + lane + in_lane / 2 + 2 * Half;
        if (Step == 2) return (in_lane / 2 ? W : 0) + lane + in_lane % 2 + 2 * Half;
        return 2 * lane + in_lane + 4 * Half;
    }
};

// The sum of each of W vectors: element i is that of x[i].
template <int Step = 1>
INLINE Floats sums_of(Floats (&x)[W]) {
#pragma GCC unroll 16
    for (int i = 0; i < W; i += 2 * Step)
        x[i] = shuffled<Summands<Step, 0>>(x[i], x[i + Step]) +
               shuffled<Summands<Step, 1>>(x[i], x[i + Step]);
    if constexpr (2 * Step < W) return sums_of<2 * Step>(x);
    return x[0];
}

}  // namespace kernels
