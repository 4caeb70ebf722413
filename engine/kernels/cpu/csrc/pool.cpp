// The thread pool: one word holds (job number, next task), so a late helper can never touch a newer job by mistake.
#include "pool.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <climits>
#include <cstdlib>
#include <mutex>
#include <new>

namespace dsctl {
namespace {

constexpr int MAX_HELPERS = 255;
constexpr int PAUSES = 200;  // bounded wait of a few microseconds before sleeping; nobody spins longer

void pause_once() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

void futex_wait(std::atomic<uint32_t>* word, uint32_t seen) {
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0);
}
void futex_wake(std::atomic<uint32_t>* word, int count) {
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count, nullptr, nullptr, 0);
}

struct Pool {
    std::mutex callers;  // one parallel loop at a time
    std::atomic<uint64_t> cursor{0};  // job number << 32 | next task
    std::atomic<uint32_t> job{0};     // what idle helpers wait on
    std::atomic<uint32_t> done{0};    // tasks finished; what the caller waits on
    std::atomic<uint32_t> sleepers{0};
    std::atomic<bool> caller_sleeps{false};
    std::atomic<uint32_t> count{0};
    std::atomic<int> allowed{0};  // helpers that may take part in this job
    std::atomic<Task> task{nullptr};
    std::atomic<void*> context{nullptr};
    int helpers = 0;
    pid_t owner = getpid();
};

Pool* pool = new Pool;  // never destroyed: helpers may outlive static destructors

// Takes tasks of job `number` until none is left.
void work(Pool* p, uint32_t number) {
    Task task = p->task.load(std::memory_order_acquire);
    void* context = p->context.load(std::memory_order_acquire);
    uint32_t count = p->count.load(std::memory_order_acquire);
    uint32_t divisor = 2 * uint32_t(p->allowed.load(std::memory_order_acquire) + 1);
    uint64_t seen = p->cursor.load(std::memory_order_acquire);
    for (;;) {
        if (uint32_t(seen >> 32) != number || uint32_t(seen) >= count) return;
        // A share of what is left: few claims, and small ones at the end, when threads must finish together.
        uint32_t first = uint32_t(seen), share = (count - first) / divisor;
        if (share == 0) share = 1;
        // Success proves that the job is still `number`, hence that the fields read above belong to it.
        if (!p->cursor.compare_exchange_weak(seen, seen + share, std::memory_order_acq_rel)) continue;
        for (uint32_t i = 0; i < share; ++i) task(context, int64_t(first + i));
        if (p->done.fetch_add(share) + share == count && p->caller_sleeps.load()) futex_wake(&p->done, 1);
        seen = p->cursor.load(std::memory_order_acquire);
    }
}

struct Helper {
    Pool* pool;
    int rank;
};

void* helper_main(void* raw) {
    Helper me = *static_cast<Helper*>(raw);
    delete static_cast<Helper*>(raw);
    Pool* p = me.pool;
    uint32_t last = 0;
    for (;;) {
        uint32_t now = p->job.load(std::memory_order_acquire);
        for (int i = 0; i < PAUSES && now == last; ++i) {
            pause_once();
            now = p->job.load(std::memory_order_acquire);
        }
        if (now == last) {
            p->sleepers.fetch_add(1);
            futex_wait(&p->job, last);
            p->sleepers.fetch_sub(1);
            continue;
        }
        last = now;
        if (me.rank < p->allowed.load(std::memory_order_acquire)) work(p, now);
    }
    return nullptr;
}

// Starts helpers up to `wanted`; fewer when the system refuses (the loop still completes).
void grow(int wanted) {
    while (pool->helpers < wanted && pool->helpers < MAX_HELPERS) {
        pthread_attr_t attributes;
        pthread_attr_init(&attributes);
        pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
        pthread_t thread;
        Helper* helper = new Helper{pool, pool->helpers};
        int refused = pthread_create(&thread, &attributes, helper_main, helper);
        pthread_attr_destroy(&attributes);
        if (refused) {
            delete helper;
            return;
        }
        ++pool->helpers;
    }
}

}  // namespace

void run_tasks(int threads, int64_t count, Task task, void* context) {
    if (threads <= 1 || count <= 1) {
        for (int64_t i = 0; i < count; ++i) task(context, i);
        return;
    }
    if (pool->owner != getpid()) pool = new Pool;  // a fork: helpers do not survive one
    std::lock_guard<std::mutex> guard(pool->callers);
    grow(threads - 1);
    Pool* p = pool;
    int allowed = int(count) - 1 < threads - 1 ? int(count) - 1 : threads - 1;
    uint32_t number = p->job.load() + 1;
    // Closing the cursor first keeps a late helper from claiming with half-written fields.
    p->cursor.store(uint64_t(number) << 32 | 0xffffffffu, std::memory_order_release);
    p->task.store(task, std::memory_order_release);
    p->context.store(context, std::memory_order_release);
    p->count.store(uint32_t(count), std::memory_order_release);
    p->allowed.store(allowed, std::memory_order_release);
    p->done.store(0, std::memory_order_release);
    p->caller_sleeps.store(false);
    p->cursor.store(uint64_t(number) << 32, std::memory_order_release);
    p->job.store(number);
    if (p->sleepers.load()) futex_wake(&p->job, INT_MAX);
    work(p, number);
    for (int i = 0; i < PAUSES && p->done.load(std::memory_order_acquire) != uint32_t(count); ++i) pause_once();
    uint32_t finished = p->done.load(std::memory_order_acquire);
    if (finished != uint32_t(count)) {
        p->caller_sleeps.store(true);
        while ((finished = p->done.load()) != uint32_t(count)) futex_wait(&p->done, finished);
    }
}

void* workspace(Slot slot, size_t bytes) {
    struct Area {
        void* memory = nullptr;
        size_t size = 0;
        ~Area() { std::free(memory); }
    };
    thread_local Area areas[SLOTS];
    Area& area = areas[slot];
    if (area.size < bytes) {
        size_t rounded = (bytes + (bytes >> 2) + 4095) & ~size_t(4095);
        std::free(area.memory);
        area.size = 0;
        area.memory = std::aligned_alloc(4096, rounded);
        if (area.memory == nullptr) throw std::bad_alloc();
        area.size = rounded;
    }
    return area.memory;
}

}  // namespace dsctl
