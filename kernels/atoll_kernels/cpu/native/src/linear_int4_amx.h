// Linear layers with weights in groups, of 4 bits (integers or MXFP4) or 8, for many rows, on CPUs with
// AMX: weights are dequantized to bfloat16, some inputs of a block of outputs at a time, and multiplied by x with tiles.
//
// Integer products would use only half of a tile for a group of 32 inputs, and convert the sums of
// every group to floats: 512 rows would take 2.5 times as long.
#pragma once

#include "fp4.h"
#include "int8_groups.h"
#include "scratch.h"
#include "gemm_amx.h"

namespace kernels {

#if defined(__AMX_TILE__)

constexpr int64_t kLeastAmxRows = 12;  // rows that are worth dequantizing for
constexpr int64_t kWideChunk = 256;    // rows that share dequantized weights
constexpr int64_t kWideInputs = 256;   // inputs dequantized at a time, whole groups: they fit in L1
using InputRow = uint32_t[kBlock];     // two inputs of each output

INLINE bool is_dequantized_by_amx(const QuantizedArgs& a) {
    return a.rows >= kLeastAmxRows && has_tiles();
}

// Two floats as bfloat16 in one word, rounded to nearest; ties go away from zero.
INLINE Words pack_pair(Floats low, Floats high) {
    return ((Words)low + 0x8000) >> 16 | (((Words)high + 0x8000) & 0xffff0000);
}

// The weights of a block of outputs: integers with a scale and an offset for each group.
class Int4Weights {
  public:
    static constexpr int kInputs = 8;  // of an output in a word of codes
    Int4Weights(const QuantizedArgs& a, int64_t block) : scales_(a, a.in_features / a.group, block) {}
    void start(int64_t group, int v) {
        scale_ = scales_.scale(group, v), offset_ = scales_.offset(group, v);
    }
    // Inputs 2i and 2i + 1 of eight, a word of codes for each output.
    INLINE Words pair(Words codes, int i) const {
        const int shift = i % 2 * 16 + i / 2 * 4;
        return pack_pair(weight(codes >> shift), weight(codes >> (shift + 8)));
    }

  private:
    INLINE Floats weight(Words codes) const {
        const auto levels = (__m512)to_floats(iota(-8));
        // The instruction uses the lowest 4 bits of an index only.
        return (Floats)_mm512_permutexvar_ps((__m512i)codes, levels) * scale_ + offset_;
    }
    GroupScales scales_;
    Floats scale_ = {}, offset_ = {};
};

// The same of MXFP4.
class Fp4Weights {
  public:
    static constexpr int kInputs = 8;
    Fp4Weights(const QuantizedArgs& a, int64_t block) : scales_(fp4_scales(a, block)) {}
    void start(int64_t group, int v) { scale_ = fp4_scale(scales_ + group * kBlock + W * v); }
    INLINE Words pair(Words codes, int i) const {
        return pack_pair(fp4_quarter(codes, 2 * i) * scale_, fp4_quarter(codes, 2 * i + 1) * scale_);
    }

  private:
    const uint8_t* scales_;
    Floats scale_ = {};
};

// The same of signed bytes without offsets.
class Int8Weights {
  public:
    static constexpr int kInputs = 4;
    Int8Weights(const QuantizedArgs& a, int64_t block) : scales_(a, block) {}
    void start(int64_t group, int v) { scale_ = scales_.scale(group, v); }
    INLINE Words pair(Words codes, int i) const {
        return pack_pair(int8_value(codes, 2 * i) * scale_, int8_value(codes, 2 * i + 1) * scale_);
    }

  private:
    Int8Scales scales_;
    Floats scale_ = {};
};

// Groups first .. last of a block, whose codes begin at w.
template <class Weights>
INLINE void dequantize_groups(const uint8_t* w, Weights& weights, int64_t first, int64_t last,
                              int64_t group, InputRow* to) {
    constexpr int kInputs = Weights::kInputs, kPairs = kInputs / 2;
    for (int64_t g = first; g < last; ++g)
        for (int v = 0; v < kVectors; ++v) {
            weights.start(g, v);
            for (int64_t i = g * group / kInputs; i < (g + 1) * group / kInputs; ++i) {
                const Words codes = load_raw<Words>(w + 4 * (i * kBlock + W * v));
#pragma GCC unroll 4
                for (int j = 0; j < kPairs; ++j)
                    store_raw(&to[kPairs * i + j - first * group / 2][W * v], weights.pair(codes, j));
            }
        }
}

// Rows first .. last of x, at most a chunk, times a block of outputs.
template <class T, class Weights>
void dequantized_block(const QuantizedArgs& a, const bf16* x, int64_t x_row, int64_t first,
                       int64_t last, int64_t block) {
    const int64_t groups = a.in_features / a.group, step = kWideInputs / a.group;
    const uint8_t* w =
        (const uint8_t*)a.weights + block * a.in_features * kBlock * 4 / Weights::kInputs;
    Weights weights(a, block);
    alignas(64) InputRow wide[kWideInputs / 2];
    Floats y[kWideChunk][kVectors];
    Tiles tiles;
    for (int64_t g = 0; g < groups; g += step) {
        const int64_t end = g + step < groups ? g + step : groups, inputs = (end - g) * a.group;
        dequantize_groups(w, weights, g, end, a.group, wide);
        for (int64_t r = first; r < last; r += kMostRows) {
            const int64_t rows = last - r < kMostRows ? last - r : kMostRows;
            const auto from = (const uint32_t*)(x + r * x_row + g * a.group);
            multiply_tiles<TilesBfloat16>(tiles, rows, from, x_row / 2, wide[0], W, kBlock,
                                          inputs / 2, y[r - first], kBlock, kVectors, g > 0);
        }
    }
    finish<T, 4>(a, first, last - first, block, y);
}

template <class T, class Weights>
void run_by_amx(const QuantizedArgs& a) {
    Scratch scratch;
    const bool is_copied = !std::is_same_v<T, bf16> || a.x_row % 2;
    bf16* copy = is_copied ? scratch.take<bf16>(a.rows * a.in_features) : nullptr;
    const bf16* x = is_copied ? copy : (const bf16*)a.x;
    const int64_t x_row = is_copied ? a.in_features : a.x_row;
    const int64_t blocks = (a.out_features + kBlock - 1) / kBlock;
    const int64_t chunks = (a.rows + kWideChunk - 1) / kWideChunk;
    const bool is_small = a.rows * a.in_features * a.out_features < kSerialElements;
    if (is_copied)
        for_rows(a.rows, a.in_features, a.threads, [&](int64_t r) {
            for_vectors(a.in_features, [&](int64_t i, auto n) {
                write(copy + r * x_row + i, read((const T*)a.x + r * a.x_row + i, n), n);
            });
        });
    for_tasks({chunks * blocks, a.threads}, is_small, [&](int64_t task) {
        const int64_t first = task / blocks * kWideChunk, last = first + kWideChunk;
        dequantized_block<T, Weights>(a, x, x_row, first, last < a.rows ? last : a.rows, task % blocks);
    });
}

#endif

}  // namespace kernels
