// Calls recorded kernels in order.
#include <cstdint>

namespace {

// Filled by atoll_kernels/cpu/graph.py: a kernel of this library and its struct of arguments.
struct Call {
    void (*kernel)(const void*);
    const void* args;
};

}  // namespace

extern "C" __attribute__((visibility("default"))) void atoll_replay(const Call* calls,
                                                                    int64_t count) {
    for (int64_t i = 0; i < count; ++i) calls[i].kernel(calls[i].args);
}
