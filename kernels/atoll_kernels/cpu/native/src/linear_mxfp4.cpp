// Linear layers with MXFP4 weights, see linear_exact.h.

#include "fp4.h"
#include "linear_exact.h"

using namespace kernels;

namespace {

class Fp4 {
  public:
    static constexpr int kInputs = 8;  // of an output in a word of codes
#if defined(__AMX_TILE__)
    using Wide = Fp4Weights;
#endif
    Fp4(const QuantizedArgs& a, int64_t block) : scales_(fp4_scales(a, block)) {}
    static constexpr int64_t group(const QuantizedArgs&) { return kFp4Group; }
    template <class Policy>
    INLINE static Words words(Policy policy, Words codes, int at) {
        return fp4_words(policy, codes, at);
    }
    INLINE Floats scale(int64_t group, int v) const { return fp4_scale(scales_ + group * kBlock + W * v); }

  private:
    const uint8_t* scales_;
};

}  // namespace

extern "C" __attribute__((visibility("default"))) void atoll_linear_mxfp4(const QuantizedArgs* args) {
    run_exact<Fp4>(*args);
}
