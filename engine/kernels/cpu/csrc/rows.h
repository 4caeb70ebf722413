// Small work on single rows, and the choice of experts.
#pragma once

#include <cstdint>

namespace dsctl {

// out = x / sqrt(mean(x²) + eps) · weight.
void norm(const float* x, const float* weight, int64_t n, float eps, float* out);

// Neighbouring pairs turn: (a, b) → (a·cos − b·sin, b·cos + a·sin), where `sin` carries the sign per element.
void rotate(const float* x, const float* cos, const float* sin, int64_t n, float* out);

constexpr int64_t MOST_EXPERTS = 1024;

struct Router {           // mirrored in library.py
    const float* bias;    // [E] or null: added for the choice only
    int64_t E, k, groups, top_groups;
    float scale;
    int32_t sigmoid, normalise, two_best;  // two_best: a group is worth its two best experts, not its best
};

// logits [E] → ids [k] and weights [k], best first, the lowest id first among equals.
void route(const Router& r, const float* logits, int64_t* ids, float* weights);

}  // namespace dsctl
