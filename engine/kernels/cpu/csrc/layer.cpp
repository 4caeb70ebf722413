// A decoder layer over one step's rows, from the residual stream back into it, without leaving C++.
#include "layer.h"

#include <algorithm>

#include "attention.h"
#include "profile.h"

namespace dsctl {
namespace {

constexpr int64_t WINDOW_ROWS = 512;  // positions expanded at a time; a multiple of the attention tile

int64_t bytes_of(const Matrix& w) {
    int64_t values = w.E * w.N * w.K;
    return w.kind == F32 ? 4 * values : w.kind == BF16 ? 2 * values : w.kind == INT8 ? values : values / 2 + 2 * values / w.group;
}

int64_t distinct(const int64_t* ids, int64_t count, int64_t experts) {
    int64_t found = 0;
    for (int64_t e = 0; e < experts; ++e) found += std::find(ids, ids + count, e) != ids + count;
    return found;
}

// One layer's work on one batch; areas hold what one part leaves for the next.
struct Run {
    const Layer& layer;
    const Batch& batch;
    float* x;  // [rows, hidden], changed in place
    void* cache;
    const Attention& a = layer.attention;
    const FeedForward& f = layer.forward;
    int64_t T = batch.rows, H = a.out.N, head_width = a.nope + a.rope, query_width = a.heads * head_width;
    int64_t mixed_width = a.heads * a.values, latent_width = a.rank + a.rope;
    float *normed = nullptr, *query = nullptr, *mixed = nullptr;

    template <typename Body>
    void each_row(int64_t count, int64_t work, Body&& body) {
        parallel(count * work < SHORT / 2 ? 1 : batch.threads, count, body);
    }

    template <typename Body>
    void each_row_of(Op op, int64_t count, int64_t work, Body&& body) {
        Timed timed(op);
        each_row(count, work, body);
    }

    void timed_linear(Op op, const Matrix& w, Operand in, int64_t rows, Operand to) {
        Timed timed(op, bytes_of(w));
        linear(w, in, rows, to, batch.threads);
    }

    void attend_rows(const Generated& g) {
        Timed timed(ATTEND);
        attend_generated(g);
    }

    void normalise(const float* weight, float eps) {
        Timed timed(NORM);
        normed = area<float>(NORMED, T * H);
        each_row(T, H, [&](int64_t t) { norm(x + t * H, weight, H, eps, normed + t * H); });
    }

    void add(const float* y) {
        Timed timed(ADD);
        each_row(T, H, [&](int64_t t) {
            for (int64_t i = t * H; i < (t + 1) * H; ++i) x[i] += y[i];
        });
    }

    template <typename C>
    void write_latent(int64_t t, const float* latent) {
        float row[MOST_LATENT];
        norm(latent, a.kv_norm, a.rank, a.eps, row);
        rotate(latent + a.rank, batch.cos + t * a.rope, batch.sin + t * a.rope, a.rope, row + a.rank);
        C* to = static_cast<C*>(cache) + batch.write[t] * latent_width;
        for (int64_t i = 0; i < latent_width; ++i) from_float(row[i], to[i]);
    }

    void project() {  // normed → query, and the rows' latents into the cache
        int64_t width = a.down.N, q_width = width - latent_width;
        float* down = area<float>(DOWN, T * width);
        float* in = a.q_norm ? area<float>(QUERY_IN, T * q_width) : nullptr;
        query = area<float>(QUERY, T * query_width);
        timed_linear(PROJECT, a.down, {normed, H, 0}, T, {down, width, 0});
        each_row_of(LATENT_ROWS, T, width, [&](int64_t t) {
            const float* row = down + t * width;
            batch.cache_is_half ? write_latent<half>(t, row + q_width) : write_latent<float>(t, row + q_width);
            if (a.q_norm) norm(row, a.q_norm, q_width, a.eps, in + t * q_width);
            else std::copy(row, row + query_width, query + t * query_width);
        });
        if (a.q_norm) timed_linear(QUERY_UP, a.q_up, {in, q_width, 0}, T, {query, query_width, 0});
        each_row_of(ROTATE, T, query_width, [&](int64_t t) {
            for (int64_t h = 0; h < a.heads; ++h) {
                float* q = query + t * query_width + h * head_width;
                for (int64_t i = 0; i < head_width; ++i) q[i] *= a.scale;
                rotate(q + a.nope, batch.cos + t * a.rope, batch.sin + t * a.rope, a.rope, q + a.nope);
            }
        });
    }

    void prompt(const PromptPart& part) {
        int64_t end = part.position + part.length, expanded = a.heads * (a.nope + a.values);
        float* states = area<float>(STATES, part.length * a.heads * 2);
        for (int64_t start = 0; start < end; start += WINDOW_ROWS) {
            int64_t count = std::min(WINDOW_ROWS, end - start);
            float *latents = area<float>(GATHERED, count * latent_width), *keys = area<float>(WINDOW, count * expanded);
            each_row(count, latent_width, [&](int64_t j) {
                int64_t p = start + j, block = part.table[p / batch.block_size];
                int64_t from = (block * batch.block_size + p % batch.block_size) * latent_width;
                for (int64_t i = 0; i < latent_width; ++i)
                    latents[j * latent_width + i] = batch.cache_is_half ? to_float(static_cast<half*>(cache)[from + i])
                                                                        : static_cast<float*>(cache)[from + i];
            });
            attend({query + part.start * query_width, keys, latents + a.rank, states, mixed + part.start * mixed_width,
                    part.length, a.heads, a.nope, a.rope, a.values, part.position, start, count, latent_width,
                    start + count == end}, {latents, latent_width, 0});
        }
    }

    // Keys and values of a head are used by the thread that expanded them, while its cache holds them.
    void attend(const Window& w, Operand latents) {
        Timed timed(PROMPT, bytes_of(a.expand));
        int64_t both = a.nope + a.values, groups = query_groups(w);
        float* keys = const_cast<float*>(w.keys);
        if (both % BLOCK) {
            float* flat = area<float>(FLAT, w.count * a.heads * both);
            linear(a.expand, latents, w.count, {flat, a.heads * both, 0}, batch.threads);
            for (int64_t i = 0; i < w.count * a.heads; ++i)
                std::copy(flat + i * both, flat + (i + 1) * both, keys + (i % a.heads * w.count + i / a.heads) * both);
        } else {
            const void* rows = prepare(a.expand, latents, w.count, batch.threads);
            bool shared = a.heads < batch.threads;  // then heads alone would leave threads without work
            int64_t each = both / BLOCK;
            auto expand = [&](int64_t block) {
                int64_t head = block / each;
                multiply(a.expand, rows, w.count, block, block + 1, {keys + head * w.count * both - head * both, both, 0});
            };
            if (shared) parallel(batch.threads, a.heads * each, expand);
            else return parallel(batch.threads, a.heads, [&](int64_t head) {
                for (int64_t block = head * each; block < (head + 1) * each; ++block) expand(block);
                for (int64_t group = 0; group < groups; ++group) attend_window(w, head, group);
            });
        }
        parallel(batch.threads, a.heads * groups, [&](int64_t i) { attend_window(w, i % a.heads, i / a.heads); });
    }

    void generated() {
        int64_t n = batch.generated, first = T - n;
        float* absorbed = area<float>(ABSORBED, n * a.heads * latent_width);
        float* latent = area<float>(LATENT, n * a.heads * a.rank);
        float* q = query + first * query_width;
        timed_linear(ABSORB_K, a.absorb_k, {q, query_width, head_width}, n, {absorbed, a.heads * latent_width, latent_width});
        for (int64_t i = 0; i < n * a.heads; ++i)
            std::copy(q + i * head_width + a.nope, q + (i + 1) * head_width, absorbed + i * latent_width + a.rank);
        attend_rows({absorbed, cache, batch.positions, batch.tables, latent, n, a.heads, latent_width, a.rank,
                          batch.block_size, bool(batch.cache_is_half), batch.threads});
        timed_linear(ABSORB_V, a.absorb_v, {latent, a.heads * a.rank, a.rank}, n,
                     {mixed + first * mixed_width, mixed_width, a.values});
    }

    void attention() {
        normalise(a.input_norm, a.eps);
        project();
        mixed = area<float>(MIXED, T * mixed_width);
        for (int64_t p = 0; p < batch.prompts; ++p) prompt(batch.parts[p]);
        if (batch.generated) generated();
        timed_linear(OUT, a.out, {mixed, mixed_width, 0}, T, {normed, H, 0});
        add(normed);
    }

    void feed_forward() {
        normalise(f.norm, f.eps);
        float* shared = f.shared_gate.N ? area<float>(SHARED, T * H) : nullptr;
        float* out = shared;
        if (shared) {
            int64_t* ids = area<int64_t>(IDS, T);
            float* weights = area<float>(WEIGHTS, T);
            std::fill(ids, ids + T, 0);
            std::fill(weights, weights + T, 1.f);
            Timed timed(DENSE, bytes_of(f.shared_gate) * 3);
            experts(f.shared_gate, f.shared_up, f.shared_down, {normed, T, H, ids, weights, 1, nullptr, shared, batch.threads});
        }
        if (f.router.N) {
            int64_t k = f.rule.k, E = f.rule.E;
            float *logits = area<float>(LOGITS, T * E), *weights = area<float>(WEIGHTS, T * k);
            int64_t* ids = area<int64_t>(IDS, T * k);
            timed_linear(ROUTER, f.router, {normed, H, 0}, T, {logits, E, 0});
            each_row_of(ROUTE, T, E * k, [&](int64_t t) { route(f.rule, logits + t * E, ids + t * k, weights + t * k); });
            out = area<float>(MIXED, T * H);
            Timed timed(EXPERTS, profile.on ? distinct(ids, T * k, E) * (2 * bytes_of(f.gate) + bytes_of(f.down)) / E : 0);
            experts(f.gate, f.up, f.down, {normed, T, H, ids, weights, k, shared, out, batch.threads});
        }
        add(out);
    }
};

}  // namespace

void run_layer(const Layer& layer, const Batch& batch, float* x, void* cache) {
    Run run{layer, batch, x, cache};
    run.attention();
    run.feed_forward();
}

}  // namespace dsctl
