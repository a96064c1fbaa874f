// The gated delta rule over packed sequences: the heads of all sequences are given to threads.

#include "gated_delta_chunk.h"
#include "gated_delta_steps.h"
#include "state.h"
#include "thread_pool.h"

using namespace kernels;

namespace {

constexpr int64_t kSmall = 1 << 16;  // multiply-adds below which threads cost more than they save
[[maybe_unused]] constexpr int64_t kLeastChunk = 32;  // fewer tokens waste most of a tile

// Chunks on tiles, where there are any and a chunk has enough tokens for them.
template <class T>
void advance(Tokens<T>& tokens, const Sequence& sequence, const Columns& columns,
             Scratch& scratch) {
    Recurrence<T> recurrence(tokens, scratch);
    const auto recur = [&] {
        tokens.read_rows();
        recurrence.advance(columns);
    };
    const auto for_chunks = [&](const auto& body) {
        for (int64_t t = 0; t < sequence.count; t += kChunk) {
            tokens.read_gates(sequence.first + t, std::min(kChunk, sequence.count - t));
            body();
        }
    };
#if defined(__AMX_TILE__)
    if constexpr (std::is_same_v<T, bf16>)
        if (sequence.count >= kLeastChunk && Chunk::fits(tokens.a)) {
            Chunk chunk(tokens, scratch);
            return for_chunks([&] {
                tokens.count < kLeastChunk ? recur() : chunk.advance(columns);
            });
        }
#endif
    for_chunks(recur);
}

template <class T, class S>
void run(const GatedDeltaArgs& a, const Sequence& sequence, int64_t head) {
    if (sequence.slot < 0) {
        T* out = (T*)a.out + (sequence.first * a.num_v_heads + head) * a.value_dim;
        for (int64_t t = 0; t < sequence.count; ++t, out += a.num_v_heads * a.value_dim)
            std::memset((void*)out, 0, a.value_dim * sizeof(T));
        return;
    }
    S* const state = a.state ? (S*)a.state + sequence.slot * a.state_slot +
                                   head * a.key_dim * a.value_dim
                             : nullptr;
    Scratch scratch;
    Tokens<T> tokens(a, head, scratch);
    if (sequence.count == 1) {
        tokens.read_gates(sequence.first, 1);
        tokens.read_rows();
        return Step<T, S>(tokens, state, sequence.is_new).run();
    }
    Columns columns(tokens, scratch);
    sequence.is_new ? columns.clear() : columns.load_from(state);
    advance(tokens, sequence, columns, scratch);
    if (state) columns.store_to(state);
}

template <class T, class S>
void run(const GatedDeltaArgs& a) {
    const int64_t tokens = ((const int32_t*)a.past.starts)[a.num_seqs], heads = a.num_v_heads;
    const bool is_small = tokens * heads * a.key_dim * a.value_dim < kSmall;
    for_tasks({a.num_seqs * heads, a.threads, 1, 1}, is_small,
              [&](int64_t i) { run<T, S>(a, a.past[i / heads], i % heads); });
}

template <class T>
void choose(const GatedDeltaArgs& a) {
    with_state(a.state_kind, [&](auto element) { run<T, decltype(element)>(a); });
}

}  // namespace

extern "C" __attribute__((visibility("default"))) void atoll_gated_delta(
    const GatedDeltaArgs* args) {
    args->is_bf16 ? choose<bf16>(*args) : choose<float>(*args);
}
