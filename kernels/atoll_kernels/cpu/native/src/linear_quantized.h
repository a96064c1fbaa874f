// What linear layers with 8- and 4-bit weights share: their arguments, and how sums become outputs.
#pragma once

#include "epilogue.h"
#include "row_loops.h"

namespace kernels {

// Filled by atoll_kernels/cpu/linear_native_quantized.py. scales: of 8 bits (outputs,) float; of 4 bits
// (blocks, groups, {scale, offset}, 2 W), in bf16, or in bytes, the offset's signed, which factors
// (blocks, {scale, offset}, 2 W) bf16 multiply. kind: the activation. is_gated: out has
// half of the outputs, the activation of each times the one so many further on; whole blocks.
struct QuantizedArgs {
    int64_t x, out, weights, scales, factors, bias, rows, in_features, out_features, x_row, group,
        bits, kind, is_gated, is_bf16, threads;
    int64_t width() const { return is_gated ? out_features / 2 : out_features; }
};

// Outputs come in blocks of 2 W. A block's weights are one run of memory: for every 4 inputs (8, of
// which the high nibbles are the second half) 4 bytes for each of its outputs.
constexpr int kVectors = 2, kBlock = kVectors * W;

// What the groups of a block of 4-bit weights are scaled by, and their offsets.
class GroupScales {
  public:
    GroupScales(const QuantizedArgs& a, int64_t groups, int64_t block) : is_bytes_(a.factors) {
        constexpr int64_t size = 2 * kBlock;
        stride_ = is_bytes_ ? size : size * sizeof(bf16);
        start_ = (const uint8_t*)a.scales + block * groups * stride_;
        for (int64_t i = 0; i < size && is_bytes_; i += W)
            factors_[i / W] = load((const bf16*)a.factors + block * size + i);
    }
    INLINE Floats scale(int64_t group, int v) const {
        const uint8_t* at = start_ + group * stride_;
        if (!is_bytes_) return load((const bf16*)at + W * v);
        return to_floats(widen(load_raw<Bytes>(at + W * v))) * factors_[v];
    }
    INLINE Floats offset(int64_t group, int v) const {
        const uint8_t* at = start_ + group * stride_;
        v += kVectors;
        if (!is_bytes_) return load((const bf16*)at + W * v);
        return to_floats(widen(load_raw<SignedBytes>(at + W * v))) * factors_[v];
    }

  private:
    bool is_bytes_;
    int64_t stride_;
    const uint8_t* start_;
    Floats factors_[2 * kVectors];
};

// What the sums of n outputs from `at` on are multiplied by and what is added to them.
template <int Bits>
struct Ends {
    Floats scale, bias;
    Ends(const QuantizedArgs& a, int64_t at, int64_t n)
        : scale(Bits == 8 ? read((const float*)a.scales + at, n) : splat(1.0f)),
          bias(a.bias ? read((const float*)a.bias + at, n) : Floats{}) {}
    INLINE Floats of(Floats y) const { return y * scale + bias; }
};

// Scales of 8 bits, bias and activation of rows first .. first + rows of a block. up: the sums of
// what gated outputs are multiplied by, or null.
template <class T, int Bits>
INLINE void finish(const QuantizedArgs& a, int64_t first, int64_t rows, int64_t block,
                   const Floats (*y)[kVectors], const Floats (*up)[kVectors] = nullptr) {
    const int64_t width = a.width();
    for (int v = 0; v < kVectors; ++v) {
        const int64_t at = block * kBlock + v * W, n = width - at < W ? width - at : W;
        if (n <= 0) break;
        const Ends<Bits> own(a, at, n), other(a, up ? at + width : at, n);
        for (int64_t r = 0; r < rows; ++r) {
            Floats z = activated(own.of(y[r][v]), a.kind);
            if (up) z *= other.of(up[r][v]);
            write((T*)a.out + (first + r) * width + at, z, n);
        }
    }
}

}  // namespace kernels
