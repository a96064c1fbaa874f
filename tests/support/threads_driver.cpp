// Jobs of every shape on the pool of thread_pool.h: ends with 0 if every task was done once.
#include "thread_pool.h"

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <thread>
#include <vector>

using namespace kernels;

namespace {

// Not atomic: a task that two threads take at once is a race, which -fsanitize=thread reports.
void one_job(const Share& share, std::mt19937& random) {
    std::vector<int> done(share.count, 0);
    std::atomic<int> wrong{0};
    const bool naps = random() % 16 == 0;
    for_pieces(share, random() % 8 == 0, [&](int64_t first, int64_t last, int64_t thread) {
        if (first < 0 || last > share.count || thread < 0 || thread >= share.threads) ++wrong;
        if (naps && thread) usleep(50);
        for (int64_t i = first; i < last; ++i) ++done[i];
    });
    for (int count : done) wrong += count != 1;
    if (wrong) {
        std::printf("%d wrong of %ld tasks, %ld threads, pieces of %ld to %ld\n", wrong.load(),
                    (long)share.count, (long)share.threads, (long)share.least, (long)share.most);
        std::exit(1);
    }
}

void many_jobs(unsigned seed, int jobs) {
    std::mt19937 random(seed);
    for (int i = 0; i < jobs; ++i) {
        const int64_t count = random() % 3 ? random() % 40 : random() % 3000;
        const int64_t least = random() % 2 ? 1 : 1 + random() % 20;
        const int64_t most = random() % 2 ? INT64_MAX : least + random() % 3;
        one_job({count, 1 + (int64_t)(random() % 6), least, most}, random);
        if (random() % 64 == 0) usleep(300);  // workers fall asleep
    }
}

}  // namespace

// Arguments: jobs, callers, and whether a child without its parent's threads goes on.
int main(int, char** arguments) {
    const int jobs = std::atoi(arguments[1]), callers = std::atoi(arguments[2]);
    std::vector<std::thread> threads;
    for (int i = 0; i < callers; ++i) threads.emplace_back(many_jobs, i, jobs);
    for (std::thread& thread : threads) thread.join();
    if (!std::atoi(arguments[3])) return 0;
    if (const pid_t child = fork()) {
        int status = 0;
        waitpid(child, &status, 0);
        return WIFEXITED(status) ? WEXITSTATUS(status) : 2;
    }
    many_jobs(callers, jobs);
    return 0;
}
