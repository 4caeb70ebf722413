// Drivers over tiles, for any weight format: a linear layer, and a layer of experts as one list of tasks.
#pragma once

#include <algorithm>

#include "matrix.h"
#include "pool.h"

namespace dsctl {

constexpr int64_t CHUNK_M = 64;              // rows that pass over a block of weights while it is in the cache
constexpr int64_t SHORT = 65536;             // products or values that one thread does before another wakes
constexpr int64_t TASK_BYTES = 128 * 1024;   // weights of one task when there are few rows: long enough to stream

// Rows of activations, each prepared once for the format.
template <typename F>
struct Rows {
    char* base;
    size_t stride;
    Rows(const void* prepared, int64_t K) : base(static_cast<char*>(const_cast<void*>(prepared))), stride(stride_of(K)) {}
    static size_t stride_of(int64_t K) { return size_t(round_up(int64_t(F::row_bytes(K)), 64)); }
    Rows(Slot slot, int64_t count, int64_t K)
        : stride(stride_of(K)) {
        base = static_cast<char*>(workspace(slot, stride * size_t(count) + 64));
    }
    void* at(int64_t i) const { return base + stride * size_t(i); }
};

inline int64_t tiles_of(int64_t rows) { return (rows + TILE_M - 1) / TILE_M; }

// Calls body.template run<M>(first) for tiles of nearly equal size that cover [0, count).
template <typename Body, int... I>
inline void run_tile(int64_t size, int64_t first, Body& body, std::integer_sequence<int, I...>) {
    ((size == I + 1 ? body.template run<I + 1>(first) : void()), ...);
}
template <typename Body>
inline void row_tiles(int64_t count, Body body) {
    int64_t tiles = tiles_of(count);
    for (int64_t i = 0; i < tiles; ++i) {
        int64_t first = count * i / tiles, last = count * (i + 1) / tiles;
        run_tile(last - first, first, body, std::make_integer_sequence<int, TILE_M>{});
    }
}

inline int64_t grain(int threads, int64_t tasks, int64_t bytes_each) {
    int64_t g = std::max<int64_t>(1, TASK_BYTES / std::max<int64_t>(1, bytes_each));
    return std::max<int64_t>(1, std::min(g, tasks / (4 * int64_t(threads))));
}

// Each tile's share of a block of weights that comes next; nothing without tiles.
template <typename F>
inline Ahead next(const typename F::Weight& w, int64_t block, int64_t rows) {
    return {static_cast<const char*>(F::block_at(w, block)), rows ? F::block_bytes(w) / tiles_of(rows) : 0};
}

// ---- linear: out[e] [M, N] = x[e] [M, K] · W[e]ᵀ for every matrix e of a stack ---------------------------------------

struct Operand {  // rows `row` values apart, of matrices `matrix` values apart
    float* at;
    int64_t row, matrix;
};

template <typename F>
struct LinearTile {
    const typename F::Weight& w;
    const Rows<F>& rows;
    int64_t block, first_row;
    int valid;
    float* out;  // of the first row
    int64_t ldo;
    Ahead ahead;
    template <int M>
    void run(int64_t m0) {
        const void* p[M];
        alignas(64) float y[M * BLOCK];
        for (int m = 0; m < M; ++m) p[m] = rows.at(first_row + m0 + m);
        F::template tile<M>(w, block, p, y, ahead);
        ahead.at += ahead.bytes;
        for (int m = 0; m < M; ++m)
            std::memcpy(out + (m0 + m) * ldo + block * BLOCK, y + m * BLOCK, size_t(valid) * 4);
    }
};

struct Range {
    int64_t first, last;
};

// Every matrix's rows, ready for its format.
template <typename F>
Rows<F> prepare(const Matrix& w, Operand x, int64_t M, int threads) {
    Rows<F> rows(ROWS, w.E * M, w.K);
    parallel(w.E * M * w.K < SHORT ? 1 : threads, w.E * M, [&](int64_t i) {
        F::encode(x.at + i / M * x.matrix + i % M * x.row, w.K, rows.at(i));
    });
    return rows;
}

// Rows [m) of matrix e times the columns of blocks [b); y is where the first row goes.
template <typename F>
void columns(const Matrix& w, int64_t e, Rows<F> rows, Range m, Range b, Operand y) {
    typename F::Weight weight = F::of(w, e);
    for (int64_t block = b.first; block < b.last; ++block) {
        int valid = int(std::min<int64_t>(BLOCK, w.N - block * BLOCK));
        Ahead ahead = next<F>(weight, block + 1, m.last - m.first);
        row_tiles(m.last - m.first, LinearTile<F>{weight, rows, block, m.first, valid, y.at, y.row, ahead});
    }
}

template <typename F>
void linear(const Matrix& w, Operand x, int64_t M, Operand y, int threads) {
    Rows<F> rows = prepare<F>(w, x, M, threads);
    int64_t all = blocks(w.N), chunks = (M + CHUNK_M - 1) / CHUNK_M;
    int64_t step = M > TILE_M ? 1 : grain(threads, w.E * all, w.K * BLOCK), groups = (all + step - 1) / step;
    parallel(w.E * M * w.K * w.N < SHORT ? 1 : threads, w.E * groups * chunks, [&](int64_t index) {
        int64_t e = index / (groups * chunks), first = index / chunks % groups * step, row = index % chunks * CHUNK_M;
        columns<F>(w, e, rows, {e * M + row, e * M + std::min(M, row + CHUNK_M)}, {first, std::min(all, first + step)},
                   {y.at + e * y.matrix + row * y.row, y.row, 0});
    });
}

// ---- experts: out [T, H] = Σ_j weights[t, j] · down(silu(gate(x)) · up(x)), j in order -----------------------------

struct Routing {
    const float* x;         // [T, H]
    int64_t T, ldx;
    const int64_t* ids;     // [T, k]; an id outside [0, E) contributes nothing
    const float* weights;   // [T, k]
    int64_t k;
    const float* addend;    // [T, H] or null: added last
    float* out;             // [T, H]
    int threads;
};

// (token, choice) pairs sorted by expert: pairs[start[a] … start[a + 1]) belong to expert active[a].
struct Plan {
    int32_t *pairs, *place, *active, *start;
    int64_t count = 0, experts = 0;
    Plan(const Routing& r, int64_t E) {
        int64_t n = r.T * r.k;
        int32_t* memory = area<int32_t>(PLAN, 2 * n + 3 * E + 2);
        pairs = memory, place = pairs + n, active = place + n, start = active + E;
        int32_t* seen = start + E + 1;
        std::fill(seen, seen + E, 0);
        for (int64_t i = 0; i < n; ++i)
            if (r.ids[i] >= 0 && r.ids[i] < E) ++seen[r.ids[i]];
        for (int64_t e = 0; e < E; ++e) {
            int32_t rows = seen[e];
            seen[e] = int32_t(count);
            if (rows) active[experts] = int32_t(e), start[experts++] = int32_t(count), count += rows;
        }
        start[experts] = int32_t(count);
        for (int64_t i = 0; i < n; ++i) {
            bool known = r.ids[i] >= 0 && r.ids[i] < E;
            place[i] = known ? seen[r.ids[i]]++ : -1;
            if (known) pairs[place[i]] = int32_t(i);
        }
    }

    // What is read after block `b` − 1 of an active expert's matrix: its next block, else the next expert's first.
    template <typename F>
    Ahead after(const Matrix& m, int64_t a, int64_t b, int64_t blocks, int64_t rows) const {
        bool same = b < blocks || a + 1 == experts;
        return next<F>(F::of(m, active[same ? a : a + 1]), same ? b : 0, rows);
    }
};

template <typename F>
struct GateUpTile {
    const typename F::Weight &gate, &up;
    const Rows<F>& rows;
    const int32_t* pairs;
    int64_t k, block;
    float* acts;  // [pairs, ld]
    int64_t ld;
    Ahead up_ahead, gate_ahead;
    template <int M>
    void run(int64_t m0) {
        const void* p[M];
        alignas(64) float g[M * BLOCK], u[M * BLOCK];
        for (int m = 0; m < M; ++m) p[m] = rows.at(pairs[m0 + m] / k);
        F::template tile<M>(gate, block, p, g, up_ahead);
        F::template tile<M>(up, block, p, u, gate_ahead);
        up_ahead.at += up_ahead.bytes;
        gate_ahead.at += gate_ahead.bytes;
        for (int m = 0; m < M; ++m)
            for (int n = 0; n < BLOCK; n += LANES)
                store(acts + (m0 + m) * ld + block * BLOCK + n, mul(silu(load(g + m * BLOCK + n)), load(u + m * BLOCK + n)));
    }
};

template <typename F, typename G>
void experts(const Matrix& gate, const Matrix& up, const Matrix& down, const Routing& r) {
    int64_t H = gate.K, I = gate.N, inner = blocks(I), outer = blocks(H), ld = inner * BLOCK;
    Plan plan(r, gate.E);
    Rows<F> rows(ROWS, r.T, H);
    Rows<G> acted(ACTS, plan.count, I);
    float* memory = area<float>(OUTER, plan.count * (ld + H) + LANES);
    float *acts = memory, *y = memory + plan.count * ld;
    int small = plan.count <= 8 ? 1 : r.threads;  // work too short to share
    parallel(small, r.T, [&](int64_t t) { F::encode(r.x + t * r.ldx, H, rows.at(t)); });
    parallel(r.threads, plan.experts * inner, [&](int64_t index) {
        int64_t a = index / inner, e = plan.active[a], first = plan.start[a];
        typename F::Weight g = F::of(gate, e), u = F::of(up, e);
        int64_t b = index % inner, count = plan.start[a + 1] - first;
        row_tiles(count, GateUpTile<F>{g, u, rows, plan.pairs + first, r.k, b, acts + first * ld, ld,
                                       next<F>(u, b, count), plan.after<F>(gate, a, b + 1, inner, count)});
    });
    parallel(small, plan.count, [&](int64_t i) { G::encode(acts + i * ld, I, acted.at(i)); });
    parallel(r.threads, plan.experts * outer, [&](int64_t index) {
        int64_t a = index / outer, b = index % outer, first = plan.start[a];
        typename G::Weight d = G::of(down, plan.active[a]);
        int valid = int(std::min<int64_t>(BLOCK, H - b * BLOCK));
        int64_t count = plan.start[a + 1] - first;
        row_tiles(count, LinearTile<G>{d, acted, b, first, valid, y + first * H, H,
                                       plan.after<G>(down, a, b + 1, outer, count)});
    });
    parallel(small, r.T, [&](int64_t t) {
        for (int64_t n = 0; n < H; n += LANES) {
            int lanes = int(std::min<int64_t>(LANES, H - n));
            F16 total = zero();
            for (int64_t j = 0; j < r.k; ++j) {
                int32_t at = plan.place[t * r.k + j];
                if (at >= 0) total = fma(set1(r.weights[t * r.k + j]), load(y + at * H + n, lanes), total);
            }
            if (r.addend) total = add(total, load(r.addend + t * H + n, lanes));
            store(r.out + t * H + n, total, lanes);
        }
    });
}

}  // namespace dsctl
