// The C entry points. Each returns 0, or a negative status: nothing is thrown across the border.
#include <new>

#include "layer.h"
#include "profile.h"
#include "sample.h"

using namespace dsctl;

namespace {

enum Status : int { OK = 0, NO_MEMORY = -1, BAD_FORMAT = -2 };

template <typename Body>
int guarded(Body&& body) {
    try {
        body();
        return OK;
    } catch (const std::bad_alloc&) {
        return NO_MEMORY;
    } catch (const BadFormat&) {
        return BAD_FORMAT;
    }
}

}  // namespace

extern "C" {

// y[e] = x[e] · w[e]ᵀ for every matrix of the stack; see Operand for the strides.
int dsctl_linear(const Matrix* w, const Operand* x, int64_t rows, const Operand* y, int threads) {
    return guarded([&] { Timed timed(HEAD, w->N * w->K); linear(*w, *x, rows, *y, threads); });
}

// Weighted sum over chosen experts; see Routing. gate, up: E × [I, H]; down: E × [H, I].
int dsctl_experts(const Matrix* gate, const Matrix* up, const Matrix* down, const Routing* r) {
    return guarded([&] { experts(*gate, *up, *down, *r); });
}

// Choice of experts for logits [T, E].
int dsctl_route(const Router* r, const float* logits, int64_t T, int64_t* ids, float* weights) {
    if (r->E > MOST_EXPERTS || r->groups < 1 || r->E % r->groups) return BAD_FORMAT;
    for (int64_t t = 0; t < T; ++t) route(*r, logits + t * r->E, ids + t * r->k, weights + t * r->k);
    return OK;
}

// out [T, n] = norm of each row of x.
int dsctl_norm(const float* x, const float* weight, int64_t T, int64_t n, float eps, float* out) {
    for (int64_t t = 0; t < T; ++t) norm(x + t * n, weight, n, eps, out + t * n);
    return OK;
}

// Decoder layers over the residual stream x [rows, hidden]; caches[i] is the latent cache of layers[i].
int dsctl_layers(const Layer* const* layers, int64_t count, const Batch* batch, float* x, void* const* caches) {
    return guarded([&] {
        for (int64_t i = 0; i < count; ++i) run_layer(*layers[i], *batch, x, caches[i]);
    });
}

// Switches the profile on or off; then hands out and forgets what it has: ns, bytes and calls [OPS]. Returns OPS.
int dsctl_profile(int on, int64_t* ns, int64_t* bytes, int64_t* calls) {
    for (int op = 0; op < OPS; ++op) ns[op] = profile.ns[op], bytes[op] = profile.bytes[op], calls[op] = profile.calls[op];
    profile = Profile{};
    profile.on = on;
    return OPS;
}

// The ids that may win each draw, see Draw; found[i] is how many, or −1.
int dsctl_contenders(const Draw* draws, int64_t count, int64_t* found, int threads) {
    return guarded([&] { parallel(threads, count, [&](int64_t i) { found[i] = contenders(draws[i]); }); });
}

// Sizes of the structures that Python mirrors, for a test; returns how many.
int dsctl_sizes(int64_t* sizes) {
    const size_t found[] = {sizeof(Matrix), sizeof(Operand), sizeof(Routing), sizeof(Router),
                            sizeof(Attention), sizeof(FeedForward), sizeof(PromptPart), sizeof(Batch), sizeof(Draw)};
    int count = 0;
    for (size_t size : found) sizes[count++] = int64_t(size);
    return count;
}

// Reads `bytes` at p with all threads, 64 bytes at a time: what memory can deliver.
int dsctl_stream(const char* p, int64_t bytes, float* sink, int threads) {
    constexpr int64_t PART = 1 << 18;
    parallel(threads, bytes / PART, [&](int64_t i) {
        const float* f = reinterpret_cast<const float*>(p + i * PART);
        F16 t[4] = {zero(), zero(), zero(), zero()};
        for (int64_t j = 0; j < PART / 4; j += 64)
            for (int v = 0; v < 4; ++v) t[v] = max(t[v], load(f + j + v * LANES));
        float top = largest(max(max(t[0], t[1]), max(t[2], t[3])));
        if (top > 1e30f) *sink = top;
    });
    return OK;
}
}
