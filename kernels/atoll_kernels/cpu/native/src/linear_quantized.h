// Linear layers with 8- and 4-bit weights: arguments, scales, and the epilogue.
#pragma once

#include "epilogue.h"
#include "row_loops.h"

namespace kernels {

// Filled by atoll_kernels/cpu/linear_native_{quantized,mxfp4,int8_groups}.py. scales of 8-bit weights:
// (outputs,) float; with groups (blocks, groups, 2 W) float. Of 4-bit weights: (blocks, groups, {scale, offset}, 2 W), either bf16, or
// bytes (offsets signed) that are multiplied by factors (blocks, {scale, offset}, 2 W) bf16. Of MXFP4:
// (blocks, groups, 2 W) bytes. kind: the activation. is_gated: out
// has half as many columns, the activation of the first half times the second; halves are whole blocks.
struct QuantizedArgs {
    int64_t is_bf16, threads, x, out, weights, scales, factors, bias, rows, in_features,
        out_features, x_row, group, bits, kind, is_gated;
    int64_t width() const { return is_gated ? out_features / 2 : out_features; }
};

// Outputs are stored in blocks of 2 W. The weights of a block are contiguous: 4 bytes of each output
// for every 4 inputs, or, with 4 bits, for every 8, whose second half is in the high nibbles.
constexpr int kVectors = 2, kBlock = kVectors * W;

// Scales and offsets of the groups of a block of 4-bit weights.
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

// Scale (of 8-bit weights) and bias of the n outputs from `at` on.
template <int Bits>
struct ScaleAndBias {
    Floats scale, bias;
    ScaleAndBias(const QuantizedArgs& a, int64_t at, int64_t n)
        : scale(Bits == 8 ? read((const float*)a.scales + at, n) : splat(1.0f)),
          bias(a.bias ? read((const float*)a.bias + at, n) : Floats{}) {}
    INLINE Floats apply(Floats y) const { return y * scale + bias; }
};

// The epilogue of rows first .. first + rows of a block. up: the sums of the second half of gated
// outputs, or null.
template <class T, int Bits>
INLINE void finish(const QuantizedArgs& a, int64_t first, int64_t rows, int64_t block,
                   const Floats (*y)[kVectors], const Floats (*up)[kVectors] = nullptr) {
    const int64_t width = a.width();
    for (int v = 0; v < kVectors; ++v) {
        const int64_t at = block * kBlock + v * W, n = width - at < W ? width - at : W;
        if (n <= 0) break;
        const ScaleAndBias<Bits> own(a, at, n), other(a, up ? at + width : at, n);
        for (int64_t r = 0; r < rows; ++r) {
            Floats z = activated(own.apply(y[r][v]), a.kind);
            if (up) z *= factor_of(other.apply(up[r][v]), a.kind);
            write((T*)a.out + (first + r) * width + at, z, n);
        }
    }
}

}  // namespace kernels
