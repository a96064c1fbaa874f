// Rotary embedding of queries and keys, and the write of keys and values to the paged cache.

#include "row_loops.h"

using namespace kernels;

namespace {

// Filled by atoll_kernels/cpu/rope.py. Without cos nothing is rotated, without slots nothing is written
// to the cache, without v_cache only keys are; q and k may be missing (0 heads).
struct RopeArgs {
    int64_t is_bf16, threads, q, k, v, positions, cos, sin, k_cache, v_cache, slots;
    int64_t q_token, q_head, k_token, k_head, v_token, v_head;
    int64_t tokens, num_heads, num_kv_heads, head_dim, half;
};

template <class T>
INLINE void rotate(T* x, const float* cos, const float* sin, int64_t half) {
    for_vectors(half, [&](int64_t i, auto n) {
        const Floats a = read(x + i, n), b = read(x + half + i, n);
        const Floats c = read(cos + i, n), s = read(sin + i, n);
        write(x + i, a * c - b * s, n);
        write(x + half + i, b * c + a * s, n);
    });
}

template <class T>
void run(const RopeArgs& a) {
    const int64_t heads = a.num_heads + 2 * a.num_kv_heads;
    for_rows(a.tokens, heads * a.head_dim, a.threads, [&](int64_t t) {
        T *q = (T*)a.q + t * a.q_token, *k = (T*)a.k + t * a.k_token;
        if (a.cos) {
            const int64_t row = ((const int64_t*)a.positions)[t] * a.half;
            const float *cos = (const float*)a.cos + row, *sin = (const float*)a.sin + row;
            for (int64_t h = 0; h < a.num_heads; ++h) rotate(q + h * a.q_head, cos, sin, a.half);
            for (int64_t h = 0; h < a.num_kv_heads; ++h) rotate(k + h * a.k_head, cos, sin, a.half);
        }
        const int64_t slot = a.slots ? ((const int64_t*)a.slots)[t] : -1;
        if (slot < 0) return;
        const T* v = (const T*)a.v + t * a.v_token;
        const size_t bytes = a.head_dim * sizeof(T);
        for (int64_t h = 0; h < a.num_kv_heads; ++h) {
            const int64_t at = (slot * a.num_kv_heads + h) * a.head_dim;
            std::memcpy((T*)a.k_cache + at, k + h * a.k_head, bytes);
            if (a.v_cache) std::memcpy((T*)a.v_cache + at, v + h * a.v_head, bytes);
        }
    });
}

}  // namespace

extern "C" __attribute__((visibility("default"))) void atoll_rope(const RopeArgs* args) {
    args->is_bf16 ? run<bf16>(*args) : run<float>(*args);
}
