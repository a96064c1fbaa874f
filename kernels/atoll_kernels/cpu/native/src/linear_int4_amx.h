// Linear layers with 4-bit weights for many rows, on CPUs with AMX: weights are dequantized to
// bfloat16, some inputs of a block of outputs at a time, and multiplied by x with tiles.
//
// Integer products would use only half of a tile for a group of 32 inputs, and convert the sums of
// every group to floats: 512 rows would take 2.5 times as long.
#pragma once

#include "linear_quantized.h"
#include "scratch.h"
#include "gemm_amx.h"

namespace kernels {

#if defined(__AMX_TILE__)

constexpr int64_t kLeastAmxRows = 12;  // rows that are worth dequantizing for
constexpr int64_t kWideChunk = 256;    // rows that share dequantized weights
constexpr int64_t kWideInputs = 256;   // inputs dequantized at a time, whole groups: they fit in L1
using InputRow = uint32_t[kBlock];     // two inputs of each output

INLINE bool is_int4_by_amx(const QuantizedArgs& a) {
    return a.bits == 4 && a.rows >= kLeastAmxRows && has_tiles();
}

// Two floats as bfloat16 in one word, rounded to nearest; ties go away from zero.
INLINE Words pack_pair(Floats low, Floats high) {
    return ((Words)low + 0x8000) >> 16 | (((Words)high + 0x8000) & 0xffff0000);
}

// Eight inputs, a word of codes for each output, as bfloat16.
INLINE void dequantize_eight(Words codes, Floats scale, Floats offset, int v, InputRow* to) {
    const auto levels = (__m512)to_floats(iota(-8));
    // The instruction uses the lowest 4 bits of an index only.
    const auto weight = [&](int shift) {
        return (Floats)_mm512_permutexvar_ps((__m512i)(codes >> shift), levels) * scale + offset;
    };
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        const int shift = i % 2 * 16 + i / 2 * 4;
        store_raw(&to[i][W * v], pack_pair(weight(shift), weight(shift + 8)));
    }
}

// Groups first .. last of a block, whose codes begin at w.
INLINE void dequantize_groups(const uint8_t* w, const GroupScales& scales, int64_t first,
                              int64_t last, int64_t group, InputRow* to) {
    for (int64_t g = first; g < last; ++g)
        for (int v = 0; v < kVectors; ++v) {
            const Floats scale = scales.scale(g, v), offset = scales.offset(g, v);
            for (int64_t i = g * group / 8; i < (g + 1) * group / 8; ++i)
                dequantize_eight(load_raw<Words>(w + 4 * (i * kBlock + W * v)), scale, offset, v,
                                 to + 4 * i - first * group / 2);
        }
}

// Rows first .. last of x, at most a chunk, times a block of outputs.
template <class T>
void dequantized_block(const QuantizedArgs& a, const bf16* x, int64_t x_row, int64_t first,
                       int64_t last, int64_t block) {
    const int64_t groups = a.in_features / a.group, step = kWideInputs / a.group;
    const uint8_t* w = (const uint8_t*)a.weights + block * a.in_features * kBlock / 2;
    const GroupScales scales(a, groups, block);
    alignas(64) InputRow wide[kWideInputs / 2];
    Floats y[kWideChunk][kVectors];
    Tiles tiles;
    for (int64_t g = 0; g < groups; g += step) {
        const int64_t end = g + step < groups ? g + step : groups, inputs = (end - g) * a.group;
        dequantize_groups(w, scales, g, end, a.group, wide);
        for (int64_t r = first; r < last; r += kMostRows) {
            const int64_t rows = last - r < kMostRows ? last - r : kMostRows;
            const auto from = (const uint32_t*)(x + r * x_row + g * a.group);
            multiply_tiles<TilesBfloat16>(tiles, rows, from, x_row / 2, wide[0], W, kBlock,
                                          inputs / 2, y[r - first], kBlock, kVectors, g > 0);
        }
    }
    finish<T, 4>(a, first, last - first, block, y);
}

template <class T>
void run_int4_by_amx(const QuantizedArgs& a) {
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
        dequantized_block<T>(a, x, x_row, first, last < a.rows ? last : a.rows, task % blocks);
    });
}

#endif

}  // namespace kernels
