// Weights of signed bytes with a scale, a float, for each group of inputs. A word has the codes of 4
// inputs of an output, the first one in the lowest byte; all of them are exact in bfloat16.
#pragma once

#include "gemm_microkernel.h"
#include "linear_quantized.h"

namespace kernels {

// The code of one of a word's inputs.
INLINE Floats int8_value(Words codes, int input) {
    return to_floats((Ints)(codes << (24 - 8 * input)) >> 24);
}

// Word `at` of x times: the codes of its inputs, of W outputs.
INLINE Words int8_words(Float32, Words codes, int at) { return (Words)int8_value(codes, at); }
#if defined(__AVX512BF16__)
INLINE Words int8_words(Bfloat16, Words codes, int at) {
    const Words low = (Words)int8_value(codes, 2 * at), high = (Words)int8_value(codes, 2 * at + 1);
    return low >> 16 | high;
}
#endif

// The scales of a block of outputs: (groups, kBlock) floats.
class Int8Scales {
  public:
    Int8Scales(const QuantizedArgs& a, int64_t block)
        : scales_((const float*)a.scales + block * a.in_features / a.group * kBlock) {}
    INLINE Floats scale(int64_t group, int v) const {
        return load(scales_ + group * kBlock + W * v);
    }

  private:
    const float* scales_;
};

}  // namespace kernels
