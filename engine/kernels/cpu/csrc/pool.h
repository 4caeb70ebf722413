// Threads that sleep until there is work: a loop over tasks shared by the caller and a few helpers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace dsctl {

using Task = void (*)(void* context, int64_t index);

// Runs task(context, i) for every i in [0, count), each exactly once, on at most `threads` threads, the caller
// among them; returns when all are done. Who runs which index is not fixed: tasks must not depend on it.
void run_tasks(int threads, int64_t count, Task task, void* context);

template <typename F>
inline void parallel(int threads, int64_t count, F&& body) {
    using Body = typename std::remove_reference<F>::type;
    run_tasks(threads, count, [](void* c, int64_t i) { (*static_cast<Body*>(c))(i); }, &body);
}

// The areas of memory that are in use at the same time.
enum Slot {
    ROWS, ACTS, OUTER, PLAN,            // matrices
    PARTS, PART_STATES, PART_VALUES,    // attention
    NORMED, DOWN, QUERY_IN, QUERY, MIXED, ABSORBED, LATENT, WINDOW, FLAT, STATES, GATHERED, LOGITS, IDS, WEIGHTS, SHARED,
    SLOTS
};

// Memory for one call, aligned to a page, kept for the next call of this thread; throws std::bad_alloc.
void* workspace(Slot slot, size_t bytes);
template <typename T>
inline T* area(Slot slot, int64_t count) {
    return static_cast<T*>(workspace(slot, size_t(count) * sizeof(T)));
}

}  // namespace dsctl
