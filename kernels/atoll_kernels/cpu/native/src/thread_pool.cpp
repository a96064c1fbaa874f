// A fork-join pool. The caller starts at once; a worker that wakes late finds no work left.
//
// An OpenMP parallel region ends when every thread has reached its end, so a worker that the system
// has descheduled delays all others, although they could do its work. Here a region ends when its
// tasks are done: only a worker that is descheduled in the middle of a piece delays the caller.

#include "thread_pool.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <climits>
#include <system_error>
#include <thread>

namespace kernels {

namespace {

// Spins of a worker before it sleeps: 50 to 100 us, more than lies between two kernels of a forward
// pass.
constexpr int kSpinsBeforeSleep = 2000;
// Spins of a caller that waits for the workers' last pieces before it yields its core.
constexpr int kSpinsBeforeYield = 2000;

inline void pause_cpu() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

class Pool {
  public:
    void run(const Share& share, Work work, const void* context) {
        // The workers are busy with another thread's job: running alone is faster than waiting.
        if (is_taken_.test_and_set(std::memory_order_acquire))
            return work(context, 0, share.count, 0);
        start_workers(share.threads - 1);
        publish(share, work, context);
        work_on_job(0);
        for (int spin = 1; left_.load(std::memory_order_acquire) > 0; ++spin)
            spin % kSpinsBeforeYield ? pause_cpu() : (void)sched_yield();
        is_taken_.clear(std::memory_order_release);
    }

  private:
    static constexpr uint64_t kNext = UINT32_MAX;  // mask of the half of claimed_ that counts tasks

    // With all signals blocked: the program's own threads handle them. If no more threads can be
    // started, the existing ones do the work.
    void start_workers(int64_t wanted) {
        if (workers_ >= wanted) return;
        sigset_t all, before;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        try {
            for (; workers_ < wanted; ++workers_)
                std::thread([this, thread = workers_ + 1] { serve(thread); }).detach();
        } catch (const std::system_error&) {
        }
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
    }

    // While claimed_ says kNext no task can be claimed, so a worker that still reads the last job's
    // fields cannot mix them with the new ones.
    void publish(const Share& share, Work work, const void* context) {
        const uint64_t job = (claimed_.load(std::memory_order_relaxed) >> 32) + 1;
        const auto set = [](auto& shared, auto value) {
            shared.store(value, std::memory_order_release);
        };
        set(claimed_, job << 32 | kNext);
        set(count_, share.count), set(threads_, share.threads);
        set(least_, share.least), set(most_, share.most);
        set(work_, work), set(context_, context), set(left_, share.count);
        set(claimed_, job << 32);
        job_.store((uint32_t)job);
        if (sleepers_.load() > 0) syscall(SYS_futex, &job_, FUTEX_WAKE_PRIVATE, INT_MAX);
    }

    // Takes pieces until none are left.
    void work_on_job(int64_t thread) {
        for (uint64_t claimed = claimed_.load();;) {
            const int64_t next = claimed & kNext, left = count_.load() - next;
            const int64_t threads = threads_.load();
            if (left <= 0 || thread >= threads) return;
            const int64_t even = (left + threads - 1) / threads;
            const int64_t size = std::min(left, std::max(least_.load(), std::min(most_.load(), even)));
            const Work work = work_;
            const void* context = context_;
            // Fails if another thread claimed tasks, or if the fields were read from two jobs.
            if (!claimed_.compare_exchange_weak(claimed, claimed + size)) continue;
            work(context, next, next + size, thread);
            left_.fetch_sub(size, std::memory_order_release);
            claimed = claimed_.load();
        }
    }

    void serve(int64_t thread) {
        for (uint32_t seen = 0;;) {
            work_on_job(thread);
            seen = next_job(seen);
        }
    }

    uint32_t next_job(uint32_t seen) {
        for (;;) {
            for (int spin = 0; spin < kSpinsBeforeSleep; ++spin, pause_cpu())
                if (const uint32_t job = job_.load(); job != seen) return job;
            sleepers_.fetch_add(1);
            syscall(SYS_futex, &job_, FUTEX_WAIT_PRIVATE, seen, nullptr);
            sleepers_.fetch_sub(1);
        }
    }

    std::atomic_flag is_taken_ = ATOMIC_FLAG_INIT;
    int64_t workers_ = 0;
    std::atomic<uint64_t> claimed_{kNext};  // job number (upper half), tasks claimed (lower half)
    std::atomic<int64_t> count_{0}, threads_{0}, least_{1}, most_{1};
    std::atomic<Work> work_{nullptr};
    std::atomic<const void*> context_{nullptr};
    alignas(64) std::atomic<int64_t> left_{0};  // unfinished tasks
    alignas(64) std::atomic<uint32_t> job_{0};
    std::atomic<int> sleepers_{0};
};

// Never destroyed: workers may still sleep in it when the process exits.
Pool* pool = new Pool;

// A forked process has no workers.
const int registered = pthread_atfork(nullptr, nullptr, [] { pool = new Pool; });

}  // namespace

void run_shared(const Share& share, Work work, const void* context) {
    pool->run(share, work, context);
}

}  // namespace kernels
