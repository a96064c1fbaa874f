// A fork-join thread pool with dynamic scheduling.
#pragma once

#include <algorithm>
#include <cstdint>

namespace kernels {

// Tasks 0 .. count, fewer than 2^32, scheduled in order (guided scheduling): the next piece is the
// number of remaining tasks divided by the number of threads, but at least `least` and at most `most`.
struct Share {
    int64_t count, threads, least = 1, most = INT64_MAX;
};

// Runs tasks first .. last on thread 0 .. threads - 1.
using Work = void (*)(const void* context, int64_t first, int64_t last, int64_t thread);

// Returns when every task is done. least <= most.
void run_shared(const Share& share, Work work, const void* context);

// Calls body(first, last, thread) for all pieces; on this thread only if is_small.
template <class Body>
inline void for_pieces(const Share& share, bool is_small, const Body& body) {
    if (is_small || share.threads < 2 || share.count <= share.least)
        return body(0, share.count, 0);
    const Work work = [](const void* context, int64_t first, int64_t last, int64_t thread) {
        (*(const Body*)context)(first, last, thread);
    };
    run_shared(share, work, &body);
}

// Calls body(task) for every task.
template <class Body>
inline void for_tasks(const Share& share, bool is_small, const Body& body) {
    for_pieces(share, is_small, [&](int64_t first, int64_t last, int64_t) {
        for (int64_t i = first; i < last; ++i) body(i);
    });
}

}  // namespace kernels
