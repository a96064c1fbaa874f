// Linear layers with 8-bit weights whose scales are those of groups of inputs, see linear_exact.h.

#include "int8_groups.h"
#include "linear_exact.h"

using namespace kernels;

namespace {

class Int8 : public Int8Scales {
  public:
    static constexpr int kInputs = 4;  // of an output in a word of codes
#if defined(__AMX_TILE__)
    using Wide = Int8Weights;
#endif
    using Int8Scales::Int8Scales;
    static int64_t group(const QuantizedArgs& a) { return a.group; }
    template <class Policy>
    INLINE static Words words(Policy policy, Words codes, int at) {
        return int8_words(policy, codes, at);
    }
};

}  // namespace

extern "C" __attribute__((visibility("default"))) void atoll_linear_int8_groups(
    const QuantizedArgs* args) {
    run_exact<Int8>(*args);
}
