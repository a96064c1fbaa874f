// The gated delta rule over packed sequences: the heads of all sequences are given to threads.

#include "gated_delta_chunk.h"
#include "gated_delta_steps.h"
#include "thread_pool.h"

using namespace kernels;

namespace {

constexpr int64_t kSmall = 1 << 16;  // multiply-adds below which threads cost more than they save
constexpr int64_t kLeastChunk = 16;  // fewer tokens are computed one after the other

template <class T>
void run(const GatedDeltaArgs& a, const Sequence& sequence, int64_t head) {
    if (sequence.slot < 0) {
        T* out = (T*)a.out + (sequence.first * a.num_v_heads + head) * a.value_dim;
        for (int64_t t = 0; t < sequence.count; ++t, out += a.num_v_heads * a.value_dim)
            std::memset((void*)out, 0, a.value_dim * sizeof(T));
        return;
    }
    float* const state = a.state ? (float*)a.state + sequence.slot * a.state_slot +
                                       head * a.key_dim * a.value_dim
                                 : nullptr;
    Scratch scratch;
    Tokens<T> tokens(a, head, scratch);
    if (sequence.count == 1) {
        tokens.read(sequence.first, 1);
        return Step<T>(tokens, state, sequence.is_new).run();
    }
    Columns columns(tokens, scratch);
    Recurrence<T> recurrence(tokens, scratch);
    Chunk<T> chunk(tokens, scratch);
    sequence.is_new ? columns.clear() : columns.load_from(state);
    for (int64_t t = 0; t < sequence.count; t += kChunk) {
        tokens.read(sequence.first + t, std::min(kChunk, sequence.count - t));
        tokens.count < kLeastChunk ? recurrence.advance(columns) : chunk.advance(columns);
    }
    if (state) columns.store_to(state);
}

template <class T>
void run(const GatedDeltaArgs& a) {
    const int64_t tokens = ((const int32_t*)a.past.starts)[a.num_seqs], heads = a.num_v_heads;
    const bool is_small = tokens * heads * a.key_dim * a.value_dim < kSmall;
    for_tasks({a.num_seqs * heads, a.threads, 1, 1}, is_small,
              [&](int64_t i) { run<T>(a, a.past[i / heads], i % heads); });
}

}  // namespace

extern "C" __attribute__((visibility("default"))) void atoll_gated_delta(
    const GatedDeltaArgs* args) {
    args->is_bf16 ? run<bf16>(*args) : run<float>(*args);
}
