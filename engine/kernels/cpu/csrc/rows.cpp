// Small work on single rows: norm, rotary embedding, choice of experts.
#include "rows.h"

#include <algorithm>
#include <cmath>

#include "vec.h"

namespace dsctl {
namespace {

void scores_of(const float* logits, int64_t E, bool sigmoid, float* s) {
    float top = logits[0];
    for (int64_t e = 1; e < E; ++e) top = std::max(top, logits[e]);
    F16 total = zero();
    for (int64_t e = 0; e < E; e += LANES) {
        int lanes = int(std::min<int64_t>(LANES, E - e));
        F16 x = load(logits + e, lanes);
        F16 p = sigmoid ? div(set1(1.f), add(set1(1.f), exp(sub(zero(), x)))) : exp(sub(x, set1(top)));
        store(s + e, p, lanes);
        total = add(total, load(s + e, lanes));
    }
    if (sigmoid) return;
    float all = sum(total);
    for (int64_t e = 0; e < E; ++e) s[e] /= all;
}

// The best not yet taken, lowest index first among equals; marks it taken.
int64_t best(float* values, int64_t n) {
    int64_t at = 0;
    for (int64_t i = 1; i < n; ++i)
        if (values[i] > values[at]) at = i;
    return at;
}

// Leaves −inf in the groups that are not among the best: by the sum of the two highest (biased) or by the highest.
void limit_groups(const Router& r, float* choice) {
    int64_t size = r.E / r.groups;
    float group[MOST_EXPERTS];
    bool kept[MOST_EXPERTS] = {};
    for (int64_t g = 0; g < r.groups; ++g) {
        float first = -INFINITY, second = -INFINITY;
        for (int64_t i = 0; i < size; ++i) {
            float v = choice[g * size + i];
            if (v > first) second = first, first = v;
            else if (v > second) second = v;
        }
        group[g] = r.two_best ? first + second : first;
    }
    for (int64_t j = 0; j < r.top_groups; ++j) {
        int64_t g = best(group, r.groups);
        kept[g] = true;
        group[g] = -INFINITY;
    }
    for (int64_t e = 0; e < r.E; ++e)
        if (!kept[e / size]) choice[e] = -INFINITY;
}

}  // namespace

void route(const Router& r, const float* logits, int64_t* ids, float* weights) {
    float s[MOST_EXPERTS], choice[MOST_EXPERTS];
    scores_of(logits, r.E, r.sigmoid, s);
    for (int64_t e = 0; e < r.E; ++e) choice[e] = r.bias ? s[e] + r.bias[e] : s[e];
    if (r.top_groups < r.groups) limit_groups(r, choice);
    float total = 0.f;
    for (int64_t j = 0; j < r.k; ++j) {
        int64_t e = best(choice, r.E);
        choice[e] = -INFINITY;
        ids[j] = e;
        weights[j] = s[e];
        total += s[e];
    }
    for (int64_t j = 0; j < r.k; ++j)
        weights[j] = (r.normalise ? weights[j] / (total + 1e-20f) : weights[j]) * r.scale;
}

void norm(const float* x, const float* weight, int64_t n, float eps, float* out) {
    F16 squares = zero();
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) squares = fma(load(x + i), load(x + i), squares);
    if (i < n) {
        F16 v = load(x + i, int(n - i));
        squares = fma(v, v, squares);
    }
    float scale = 1.f / std::sqrt(sum(squares) / float(n) + eps);
    for (i = 0; i < n; ++i) out[i] = x[i] * scale * weight[i];
}

// Neighbouring pairs turn: (a, b) → (a·cos − b·sin, b·cos + a·sin), with `sin` carrying the sign per element.
void rotate(const float* x, const float* cos, const float* sin, int64_t n, float* out) {
    for (int64_t i = 0; i + 1 < n; i += 2) {
        float a = x[i], b = x[i + 1];
        out[i] = a * cos[i] + b * sin[i];
        out[i + 1] = b * cos[i + 1] + a * sin[i + 1];
    }
}

}  // namespace dsctl
