// What attention needs to know; a sequence's latents lie in blocks, which its block table lists.
#pragma once

#include <cstdint>

namespace dsctl {

constexpr int64_t MOST_HEAD_WIDTH = 512;  // nope + rope

// Generated rows: every head of a row against the latents of its sequence.
struct Generated {
    const float* queries;         // [n, heads, width], scaled
    const void* cache;            // [blocks × block_size, width], float or half
    const int64_t* positions;     // [n]: a row sees 0 … its own
    const int64_t* const* tables;  // [n]: block table of the row's sequence
    float* out;                   // [n, heads, rank]
    int64_t n, heads, width, rank, block_size;
    bool cache_is_half;
    int threads;
};
void attend_generated(const Generated& g);

// Prompt rows: one window of expanded keys and values, taken in after all windows to its left.
struct Window {
    const float* queries;  // [n, heads, nope + rope], scaled; row i is at position first + i
    const float* keys;     // [heads, count, nope + values]: expanded from the latents
    const float* shared;   // [count] rows of the rotated key that all heads share, `shared_stride` apart
    float* states;         // [n, heads, 2]: maximum and sum so far; the first window sets them
    float* out;            // [n, heads, values]: weighted values so far; the last window divides them
    int64_t n, heads, nope, rope, values, first, start, count, shared_stride;  // the window begins at `start`
    bool last;
};
// Rows are taken in groups; each head and group is a task of its own.
int64_t query_groups(const Window& w);
void attend_window(const Window& w, int64_t head, int64_t group);

}  // namespace dsctl
