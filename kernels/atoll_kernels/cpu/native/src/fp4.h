// The values of MXFP4: E2M1 codes, 16 in a table, times a power of two for 32 inputs of an output. All
// of them are exact in bfloat16.
#pragma once

#include "gemm_microkernel.h"
#include "linear_quantized.h"

namespace kernels {

constexpr int64_t kFp4Group = 32;

// A word has the codes of 8 inputs of an output: inputs 0, 2, 4, 6, then 1, 3, 5, 7, from the lowest
// nibble on. So the nibbles of a pair of inputs are at the same place of the two halves of the word.
constexpr int nibble_of(int input) { return input % 2 * 4 + input / 2; }

// A quarter of the value, since the powers below are four times too large.
INLINE Floats fp4_quarter(Words codes, int input) {
    const int shift = 4 * nibble_of(input);
#if defined(__AVX512F__)
    // The instruction uses the lowest 4 bits of an index only.
    const __m512 table = _mm512_setr_ps(0, .125f, .25f, .375f, .5f, .75f, 1, 1.5f, -0.0f, -.125f,
                                        -.25f, -.375f, -.5f, -.75f, -1, -1.5f);
    return (Floats)_mm512_permutexvar_ps((__m512i)(codes >> shift), table);
#else
    const Words sign = codes << (28 - shift) & 0x80000000;
#if defined(__AVX2__)
    // And this one the lowest 3.
    const __m256 table = _mm256_setr_ps(0, .125f, .25f, .375f, .5f, .75f, 1, 1.5f);
    const __m256 size = _mm256_permutevar8x32_ps(table, (__m256i)(codes >> shift));
    return (Floats)((Words)size | sign);
#else
    const Ints size = (Ints)(codes >> shift & 7);
    // An exponent and one bit of mantissa, but for 0 and the subnormal number.
    const Floats normal = (Floats)((size << 22) + splat(124 << 23));
    return (Floats)((Words)(size < 2 ? to_floats(size) * splat(.125f) : normal) | sign);
#endif
#endif
}

// Word `at` of x times: a quarter of the values of its inputs, of W outputs.
INLINE Words fp4_words(Float32, Words codes, int at) { return (Words)fp4_quarter(codes, at); }
#if defined(__AVX512BF16__)
INLINE Words fp4_words(Bfloat16, Words codes, int at) {
    // The upper halves of the floats of the table above, twice, since indices have 5 bits.
    const __m256i table = _mm256_setr_epi16(0, 0x3e00, 0x3e80, 0x3ec0, 0x3f00, 0x3f40, 0x3f80, 0x3fc0,
                                            (short)0x8000, (short)0xbe00, (short)0xbe80, (short)0xbec0,
                                            (short)0xbf00, (short)0xbf40, (short)0xbf80, (short)0xbfc0);
    return (Words)_mm512_permutexvar_epi16((__m512i)(codes >> 4 * at), _mm512_broadcast_i64x4(table));
}
#endif

// Four times the power of two that a byte stands for, 2^(byte - 127), of W outputs. The byte is at
// most 240, and 0 would be subnormal.
INLINE Floats fp4_scale(const uint8_t* bytes) {
    return (Floats)((widen(load_raw<Bytes>(bytes)) + splat(2)) << 23);
}

// The scales of a block of outputs: (groups, kBlock) bytes.
INLINE const uint8_t* fp4_scales(const QuantizedArgs& a, int64_t block) {
    return (const uint8_t*)a.scales + block * a.in_features / kFp4Group * kBlock;
}

}  // namespace kernels
