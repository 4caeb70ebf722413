// Attention over cached latents with an online softmax, in tiles at absolute positions from 0, left to right.
//
// What a row computes is fixed by its own position: tiles of TILE positions, joined into parts of PART positions,
// joined from the first to the last. Rows, heads, threads and windows only decide who computes it.
#include <algorithm>
#include <cmath>

#include "attention.h"
#include "dense.h"
#include "pool.h"

using namespace dsctl;

namespace {

constexpr int TILE = 64;
constexpr int64_t PART = 256;
constexpr int64_t SHORT_JOIN = 16384;  // values that one thread joins alone
constexpr int64_t MOST_VALUES = 8 << 20;  // floats of parts that are not joined yet
#if defined(__AVX512F__)
constexpr int SHARERS = 8;  // heads (or prompt rows) that share the reading of keys
#else
constexpr int SHARERS = 4;
#endif
constexpr int QUERIES = 128;      // prompt rows that share the gathering of keys
constexpr int MOST_VALUE = 256;  // values of a head that are gathered too

struct State {  // of one row and head: running maximum and sum of e^(score - maximum)
    float top, sum;
};

// Takes in positions: scores[m][0 … seen[m]), values v[j][0 … width) → states and weighted values o[m]. seen rises.
template <int M, typename V>
inline void take(float (*scores)[TILE], const int* seen, const V* const* v, int64_t width, State* states, float* const* o) {
    const int count = seen[M - 1];  // a row that sees less has weight 0 there
    float shrink[M];
    for (int m = 0; m < M; ++m) {
        float* s = scores[m];
        for (int j = seen[m]; j < TILE; ++j) s[j] = -INFINITY;
        F16 top = max(max(load(s), load(s + 16)), max(load(s + 32), load(s + 48)));
        float highest = std::max(states[m].top, largest(top)), gap[LANES] = {states[m].top - highest};
        store(gap, exp(load(gap)));
        F16 total = zero();
        for (int j = 0; j < TILE; j += LANES) {
            F16 p = exp(sub(load(s + j), set1(highest)));
            store(s + j, p);
            total = add(total, p);
        }
        shrink[m] = gap[0];
        states[m].top = highest;
        states[m].sum = states[m].sum * gap[0] + sum(total);
    }
    auto chunk = [&](int64_t c, auto vectors) {
        constexpr int N = decltype(vectors)::value;
        F16 acc[M * N];
        repeat<M * N>(EACH(i) { acc[i] = mul(load(o[i / N] + c + i % N * LANES), set1(shrink[i / N])); });
        for (int j = 0; j < count; ++j) {
            F16 x[N];
            repeat<N>(EACH(n) { x[n] = load(v[j] + c + n * LANES); });
            repeat<M * N>(EACH(i) { acc[i] = fma(set1(scores[i / N][j]), x[i % N], acc[i]); });
        }
        repeat<M * N>(EACH(i) { store(o[i / N] + c + i % N * LANES, acc[i]); });
    };
    constexpr int WIDE = M > 4 ? 2 : 4;
    int64_t c = 0;
    for (; c + WIDE * LANES <= width; c += WIDE * LANES) chunk(c, std::integral_constant<int, WIDE>{});
    for (; c + LANES <= width; c += LANES) chunk(c, std::integral_constant<int, 1>{});
    if (c == width) return;
    for (int m = 0; m < M; ++m) {
        F16 acc = mul(load(o[m] + c, int(width - c)), set1(shrink[m]));
        for (int j = 0; j < count; ++j) acc = fma(set1(scores[m][j]), load(v[j] + c, int(width - c)), acc);
        store(o[m] + c, acc, int(width - c));
    }
}

// scores[m][j] = q[m] · key j, for M rows and a run of neighbouring keys; `ahead` are keys that are read later.
template <int M, typename C>
inline void score(const float* const* q, const C* keys, const C* ahead, int64_t width, int count, float* scores) {
    constexpr int N = M > 4 ? 2 : 4;
    int j = 0;
    for (; j < count; j += j + N <= count ? N : 1) {
        for (int64_t i = 0; ahead && i < N * width; i += 64 / int64_t(sizeof(C))) prefetch_far(ahead + j * width + i);
        if (j + N <= count) DotTile<M, N, float, C>::run(q, keys + j * width, width, width, scores + j, TILE);
        else DotTile<M, 1, float, C>::run(q, keys + j * width, width, width, scores + j, TILE);
    }
}

struct Parts {  // results of all parts of all rows, until they are joined
    int64_t* first;  // [n + 1]: number of parts before a row
    State* states;   // [parts, heads]
    float* values;   // [parts, heads, rank]
};

template <int M, typename C>
void part_of_row(const Generated& g, const Parts& parts, int64_t row, int64_t part, int64_t head) {
    auto latent = [&](int64_t of, int64_t position) {
        int64_t slot = g.tables[of][position / g.block_size] * g.block_size + position % g.block_size;
        return static_cast<const C*>(g.cache) + slot * g.width;
    };
    int64_t at = (parts.first[row] + part) * g.heads + head;
    const float* q[M];
    float* o[M];
    for (int m = 0; m < M; ++m) {
        q[m] = g.queries + (row * g.heads + head + m) * g.width;
        o[m] = parts.values + (at + m) * g.rank;
        std::fill(o[m], o[m] + g.rank, 0.f);
        parts.states[at + m] = {-INFINITY, 0.f};
    }
    int64_t end = std::min((part + 1) * PART, g.positions[row] + 1);
    for (int64_t start = part * PART; start < end; start += TILE) {
        int count = int(std::min<int64_t>(TILE, end - start));
        alignas(64) float scores[M][TILE];
        const C* rows[TILE];
        for (int j = 0; j < count;) {  // block by block
            int64_t position = start + j, inside = position % g.block_size;
            int run = int(std::min<int64_t>(count - j, g.block_size - inside));
            const C *base = latent(row, position), *ahead = nullptr;
            if (position + TILE <= g.positions[row]) ahead = latent(row, position + TILE);
            else if (row + 1 < g.n && j <= g.positions[row + 1]) ahead = latent(row + 1, j);
            for (int i = 0; i < run; ++i) rows[j + i] = base + i * g.width;
            score<M, C>(q, base, ahead, g.width, run, &scores[0][j]);
            j += run;
        }
        int seen[M];
        std::fill(seen, seen + M, count);
        take<M, C>(scores, seen, rows, g.rank, parts.states + at, o);
    }
}

void join(const Generated& g, const Parts& parts, int64_t row, int64_t head) {
    float* out = g.out + (row * g.heads + head) * g.rank;
    State total = {-INFINITY, 0.f};
    std::fill(out, out + g.rank, 0.f);
    for (int64_t p = parts.first[row]; p < parts.first[row + 1]; ++p) {
        State s = parts.states[p * g.heads + head];
        const float* v = parts.values + (p * g.heads + head) * g.rank;
        float top = std::max(total.top, s.top), scale[LANES] = {total.top - top, s.top - top};
        store(scale, exp(load(scale)));
        for (int64_t c = 0; c < g.rank; ++c) out[c] = out[c] * scale[0] + v[c] * scale[1];
        total = {top, total.sum * scale[0] + s.sum * scale[1]};
    }
    for (int64_t c = 0; c < g.rank; ++c) out[c] = out[c] / total.sum;
}

inline int64_t each(const Generated& g) { return g.heads * g.rank; }

template <typename C>
void generated(const Generated& g) {
    Parts parts;
    parts.first = static_cast<int64_t*>(workspace(PARTS, size_t(g.n + 1) * 8));
    parts.first[0] = 0;
    for (int64_t i = 0; i < g.n; ++i) parts.first[i + 1] = parts.first[i] + g.positions[i] / PART + 1;
    int64_t count = parts.first[g.n];
    int64_t sharers = SHARERS;  // fewer where there would not be a group for every thread
    while (sharers > 1 && count * (g.heads / sharers) < 2 * g.threads) sharers /= 2;
    int64_t groups = (g.heads + sharers - 1) / sharers;
    parts.states = static_cast<State*>(workspace(PART_STATES, size_t(count * g.heads) * sizeof(State)));
    parts.values = static_cast<float*>(workspace(PART_VALUES, size_t(count * g.heads * g.rank) * 4));
    bool tiny = count * g.heads <= 4 && count * g.width < 4096;
    parallel(tiny ? 1 : g.threads, count * groups, [&](int64_t index) {
        int64_t part = index / groups, head = index % groups * sharers;
        int64_t row = std::upper_bound(parts.first, parts.first + g.n, part) - parts.first - 1;
        int64_t local = part - parts.first[row];
        int64_t last = std::min(g.heads, head + sharers);
        if (last - head == SHARERS) return part_of_row<SHARERS, C>(g, parts, row, local, head);
        for (; head + 4 <= last; head += 4) part_of_row<4, C>(g, parts, row, local, head);
        for (; head + 2 <= last; head += 2) part_of_row<2, C>(g, parts, row, local, head);
        for (; head < last; ++head) part_of_row<1, C>(g, parts, row, local, head);
    });
    parallel(g.n * each(g) < SHORT_JOIN ? 1 : g.threads, g.n, [&](int64_t row) {
        for (int64_t head = 0; head < g.heads; ++head) join(g, parts, row, head);
    });
}

// The keys and values of one tile for one head.
struct Gathered {
    alignas(64) float keys[MOST_HEAD_WIDTH * TILE];  // [nope + rope, TILE]
    alignas(64) float values[TILE * MOST_VALUE];
    const float* v[TILE];
    int held;

    Gathered(const Window& w, int64_t head, int64_t tile) : held(int(std::min<int64_t>(TILE, w.count - tile))) {
        int64_t both = w.nope + w.values;
        const float *k[TILE], *turned[TILE];
        for (int j = 0; j < TILE; ++j) {
            int64_t at = tile + std::min(j, held - 1);  // what is not held repeats the last: its scores are not looked at
            k[j] = w.keys + (head * w.count + at) * both;
            turned[j] = w.shared + at * w.shared_stride;
            v[j] = k[j] + w.nope;
        }
        lay(k, w.nope, keys);
        lay(turned, w.rope, keys + w.nope * TILE);
        if (w.values > MOST_VALUE) return;
        for (int j = 0; j < held; ++j) {
            std::memcpy(values + j * w.values, v[j], size_t(w.values) * 4);
            v[j] = values + j * w.values;
        }
    }

    static void lay(const float* const* rows, int64_t width, float* out) {  // out[i · TILE + j] = rows[j][i]
        for (int j = 0; j < TILE; j += LANES) {
            int64_t i = 0;
            const float* at[LANES];
            for (; i + LANES <= width; i += LANES) {
                for (int l = 0; l < LANES; ++l) at[l] = rows[j + l] + i;
                transpose(at, out + i * TILE + j, TILE);
            }
            for (; i < width; ++i)
                for (int l = 0; l < LANES; ++l) out[i * TILE + j + l] = rows[j + l][i];
        }
    }
};

// scores[m][0 … TILE) of M rows, of which the last sees `seen` keys.
template <int M>
inline void scores_of(const float* const* q, const float* keys, int64_t width, int seen, float (*scores)[TILE]) {
    for (int j = 0; j < seen; j += 2 * LANES) {
        F16 acc[2 * M];
        repeat<2 * M>(EACH(i) { acc[i] = zero(); });
        const float* k = keys + j;
        for (int64_t i = 0; i < width; ++i, k += TILE) {
            F16 low = load(k), high = load(k + LANES);
            repeat<M>(EACH(m) {
                F16 x = set1(q[m][i]);
                acc[2 * m] = fma(x, low, acc[2 * m]);
                acc[2 * m + 1] = fma(x, high, acc[2 * m + 1]);
            });
        }
        repeat<2 * M>(EACH(i) { store(scores[i / 2] + j + i % 2 * LANES, acc[i]); });
    }
}

template <int M>
void prompt_rows(const Window& w, int64_t row, int64_t head, int64_t start, const Gathered& tile) {
    int64_t width = w.nope + w.rope;
    const float* q[M];
    float* o[M];
    State states[M];
    int seen[M];
    alignas(64) float scores[M][TILE];
    for (int m = 0; m < M; ++m) {
        int64_t at = (row + m) * w.heads + head;
        seen[m] = int(std::min<int64_t>(tile.held, w.first + row + m - start + 1));
        q[m] = w.queries + at * width;
        o[m] = w.out + at * w.values;
        states[m] = {w.states[2 * at], w.states[2 * at + 1]};
    }
    scores_of<M>(q, tile.keys, width, seen[M - 1], scores);
    take<M, float>(scores, seen, tile.v, w.values, states, o);
    for (int m = 0; m < M; ++m) {
        int64_t at = (row + m) * w.heads + head;
        w.states[2 * at] = states[m].top;
        w.states[2 * at + 1] = states[m].sum;
    }
}

// One head, rows [row, stop), the tile of keys at offset `tile` of the window.
void prompt_tile(const Window& w, int64_t row, int64_t stop, int64_t head, int64_t tile) {
    Gathered gathered(w, head, tile);
    int64_t start = w.start + tile;
    row = std::max(row, start - w.first);  // rows before the tile do not see it
    for (; row + SHARERS <= stop; row += SHARERS) prompt_rows<SHARERS>(w, row, head, start, gathered);
    for (; row + 2 <= stop; row += 2) prompt_rows<2>(w, row, head, start, gathered);
    for (; row < stop; ++row) prompt_rows<1>(w, row, head, start, gathered);
}

}  // namespace

namespace dsctl {

void attend_generated(const Generated& g) {
    int64_t width = each(g);
    for (int64_t first = 0; first < g.n;) {  // as many rows at a time as MOST_VALUES lets wait to be joined
        int64_t last = first, parts = 0;
        for (; last < g.n; ++last) {
            parts += g.positions[last] / PART + 1;
            if (last > first && parts * width > MOST_VALUES) break;
        }
        Generated some = g;
        some.queries += first * g.heads * g.width;
        some.positions += first;
        some.tables += first;
        some.out += first * width;
        some.n = last - first;
        g.cache_is_half ? generated<half>(some) : generated<float>(some);
        first = last;
    }
}

int64_t query_groups(const Window& w) { return (w.n + QUERIES - 1) / QUERIES; }

void attend_window(const Window& w, int64_t head, int64_t group) {
    int64_t row = group * QUERIES, stop = std::min(w.n, row + QUERIES);
    for (int64_t r = row; r < stop && w.start == 0; ++r) {
        int64_t at = r * w.heads + head;
        w.states[2 * at] = -INFINITY, w.states[2 * at + 1] = 0.f;
        std::fill(w.out + at * w.values, w.out + (at + 1) * w.values, 0.f);
    }
    for (int64_t tile = 0; tile < w.count && w.start + tile <= w.first + stop - 1; tile += TILE)
        prompt_tile(w, row, stop, head, tile);
    for (int64_t r = row; r < stop && w.last; ++r) {
        int64_t at = r * w.heads + head;
        for (int64_t c = 0; c < w.values; ++c) w.out[at * w.values + c] /= w.states[2 * at + 1];
    }
}

}  // namespace dsctl
