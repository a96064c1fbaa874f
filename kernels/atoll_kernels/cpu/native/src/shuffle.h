// Shuffles of the elements of two vectors. Indices are part of the type, so that the compiler can pick
// an instruction for them: indices from a loop would be assembled element by element.
#pragma once

#include <utility>

#include "simd.h"

namespace kernels {

// Element i of the result is element Places::at(i) of the concatenation of a and b.
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

// A step of a transposition: two rows, Step apart, exchange blocks of Step elements.
template <int Step>
struct Swapped {
    struct First {
        static constexpr int at(int i) { return i & Step ? W + i - Step : i; }
    };
    struct Second {
        static constexpr int at(int i) { return i & Step ? W + i : i + Step; }
    };
};

// Transposes W rows of W words in place.
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

// Interleaves the 16-bit halves of the words of a and b within lanes of four words: of the first or
// the last two words of each lane.
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

// Interleaves lanes of four elements of a and b: of the first or the last half of each.
template <int Last>
struct Lanes {
    static constexpr int at(int i) {
        const int lane = i / 4;
        return (lane % 2 ? W : 0) + (lane / 2 + W / 8 * Last) * 4 + i % 4;
    }
};

// The first or second summands of two vectors that are Step apart in sums_of. Shuffles stay within
// lanes of four while they can.
template <int Step, int Half>
struct Summands {
    static constexpr int at(int i) {
        const int lane = i / 4 * 4, in_lane = i % 4;
        if (Step == 1) return (in_lane % 2 ? W : 0) + lane + in_lane / 2 + 2 * Half;
        if (Step == 2) return (in_lane / 2 ? W : 0) + lane + in_lane % 2 + 2 * Half;
        return 2 * lane + in_lane + 4 * Half;
    }
};

// The sums of W vectors: element i is the sum of x[i].
template <int Step = 1>
INLINE Floats sums_of(Floats (&x)[W]) {
#pragma GCC unroll 16
    for (int i = 0; i < W; i += 2 * Step)
        x[i] = shuffled<Summands<Step, 0>>(x[i], x[i + Step]) +
               shuffled<Summands<Step, 1>>(x[i], x[i + Step]);
    if constexpr (2 * Step < W) return sums_of<2 * Step>(x);
    return x[0];
}

// Of N vectors that alternate in memory, vector Which: element i is element N * i + Which of the N
// loaded ones, taken from one of them after the other (Step).
template <int N, int Which, int Step>
struct Alternating {
    static constexpr int at(int i) {
        const int flat = N * i + Which;
        if (Step == 1) return flat < 2 * W ? flat : i;
        return flat / W == Step ? W + flat % W : i;
    }
};
// The inverse: vector Which of the memory.
template <int N, int Which, int Step>
struct Woven {
    static constexpr int at(int i) {
        const int flat = Which * W + i, source = flat % N;
        return source == Step ? W + flat / N : Step == 1 && source == 0 ? flat / N : i;
    }
};
template <template <int, int, int> class Places, int N, int Which, int Step = 1>
INLINE Floats gathered(const Floats (&x)[N], Floats found) {
    if constexpr (Step == N) return found;
    else
        return gathered<Places, N, Which, Step + 1>(
            x, shuffled<Places<N, Which, Step>>(found, x[Step]));
}
template <template <int, int, int> class Places, int N, int... Which>
INLINE void rearranged(Floats (&x)[N], std::integer_sequence<int, Which...>) {
    Floats y[N] = {gathered<Places, N, Which>(x, x[0])...};
    std::memcpy(x, y, sizeof y);
}
// Separates N vectors that alternate in memory, element by element; in place.
template <int N>
INLINE void separate(Floats (&x)[N]) {
    rearranged<Alternating>(x, std::make_integer_sequence<int, N>());
}
// The inverse.
template <int N>
INLINE void weave(Floats (&x)[N]) {
    rearranged<Woven>(x, std::make_integer_sequence<int, N>());
}

}  // namespace kernels
