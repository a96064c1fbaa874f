// Attention over packed sequences and over a paged cache: divides the work into items of similar cost
// and gives them to threads, the most expensive first.

#include "attention_blocked.h"
#include "attention_decode.h"
#include "thread_pool.h"

#include <memory>

using namespace kernels;

namespace {

constexpr int64_t kSmall = 1 << 17;  // multiply-adds below which threads cost more than they save
constexpr int64_t kLeastPart = 512;  // keys of a part, where a sequence's keys are divided
constexpr int64_t kDividedRows = 64;

struct Plan {
    std::vector<Item> items;
    std::vector<std::pair<Item, int64_t>> divided;  // with the number of parts
    int64_t num_parts = 0, cost = 0;
};

template <class A>
Plan plan(const A& a, int64_t threads) {
    const AttentionArgs& args = a.args;
    int64_t longest = 0, total = 0;
    for (int64_t s = 0; s < args.num_seqs; ++s) {
        longest = std::max(longest, a.num_queries(s));
        total += a.num_queries(s);
    }
    // With few sequences, smaller items give every thread some.
    int64_t most = std::max<int64_t>(1, kMaxRows / a.group);
    const int64_t share = total * args.num_kv_heads / (4 * threads) + 1;
    if (threads > 1) most = std::min(most, std::max<int64_t>((share + 7) / 8 * 8, 16));
    Plan plan;
    for (int64_t s = 0; s < args.num_seqs; ++s) {
        const int64_t queries = a.num_queries(s), keys = a.num_keys(s);
        for (int64_t first = 0; first < queries; first += most)
            for (int64_t h = 0; h < args.num_kv_heads; ++h) {
                Item item{(int32_t)s, (int32_t)h, first, std::min(most, queries - first), 0, 0, -1};
                const int64_t p = keys - queries + first;
                item.k0 = a.first_key(p);
                item.k1 = std::max(item.k0, a.end_key(p + item.count - 1, keys));
                plan.cost += item.cost();
                plan.items.push_back(item);
            }
    }
    const int64_t wanted = 2 * threads;
    // One query of each sequence, or few rows: the parts of a long prompt would take much memory.
    const bool is_divisible = longest == 1 || longest * a.group <= kDividedRows;
    if (threads > 1 && is_divisible && (int64_t)plan.items.size() < wanted) {
        std::vector<Item> parts;
        for (Item item : plan.items) {
            const int64_t keys = item.k1 - item.k0;
            const int64_t n = std::min<int64_t>(wanted, keys / kLeastPart);
            if (n < 2) {
                parts.push_back(item);
                continue;
            }
            plan.divided.push_back({item, n});
            plan.divided.back().first.part = plan.num_parts;
            for (int64_t i = 0; i < n; ++i) {
                Item part = item;
                part.k0 = item.k0 + keys * i / n, part.k1 = item.k0 + keys * (i + 1) / n;
                part.part = plan.num_parts++;
                parts.push_back(part);
            }
        }
        plan.items = parts;
    }
    std::stable_sort(plan.items.begin(), plan.items.end(),
                     [](const Item& x, const Item& y) { return x.cost() > y.cost(); });
    return plan;
}

template <class T, class Policy>
void attend(const AttentionArgs& args) {
    const Attention<T, Policy> a{args};
    const Plan p = plan(a, args.threads);
    // Rows of a part, made whole vectors, so that the next part is aligned, too.
    const auto rows = [&](const Item& item) { return (item.count * a.group + W - 1) / W * W; };
    const int64_t row = a.panels * W;
    int64_t size = p.num_parts ? W : 0;
    for (const auto& [item, parts] : p.divided) size += parts * rows(item) * (row + 2);
    std::vector<float> store(size);
    std::vector<Partial> partials;
    float* next = (float*)(((uintptr_t)store.data() + sizeof(Floats) - 1) & ~(sizeof(Floats) - 1));
    for (const auto& [item, parts] : p.divided)
        for (int64_t i = 0; i < parts; ++i, next += rows(item) * (row + 2))
            partials.push_back({next + rows(item) * row, next + rows(item) * (row + 1), (Floats*)next});
    const int64_t count = p.items.size();
    const BlockedAttention<T, Policy> blocked{a};
    const DecodeAttention<T, Policy> decode{a};
    const auto run = [&](int64_t i, int64_t next) {
        const Item& item = p.items[i];
        const Item* then = next < count ? &p.items[next] : nullptr;
        const bool is_short = item.count * a.group <= kMaxDecodeRows && !a.is_disentangled;
        is_short ? decode.run(item, then, partials.data())
                 : blocked.run(item, then, partials.data());
    };
    const bool is_small = p.cost * a.group * a.D < kSmall;
    const int64_t stride = is_small ? 1 : args.threads;  // to the item that this thread takes next
    for_tasks({count, args.threads, 1, 1}, is_small, [&](int64_t i) { run(i, i + stride); });
    for (const auto& [item, parts] : p.divided) a.merge(item, partials.data() + item.part, parts);
}

}  // namespace

extern "C" __attribute__((visibility("default"))) void atoll_attention(const AttentionArgs* args) {
#if defined(__AVX512BF16__)
    if (args->is_bf16) return attend<bf16, Bfloat16>(*args);
#else
    if (args->is_bf16) return attend<bf16, Float32>(*args);
#endif
    attend<float, Float32>(*args);
}
