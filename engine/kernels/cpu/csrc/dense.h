// Weights in 16 or 32 bits, as the checkpoint stores them (row-major), and the dot-product tile attention uses too.
#pragma once

#include "matrix.h"
#include "vec.h"

namespace dsctl {

// out[m][n] = Σ_k x[m][k] · w[n·ldw + k]. Sixteen partial sums per output, one chain each.
template <int M, int N, typename X, typename W>
struct DotTile {
    static inline void run(const X* const* x, const W* w, int64_t ldw, int64_t K, float* out, int64_t ldo) {
        F16 acc[M * N];
        repeat<M * N>(EACH(i) { acc[i] = zero(); });
        int64_t k = 0;
        for (; k + LANES <= K; k += LANES) {
            F16 a[M], b[N];
            repeat<N>(EACH(n) { b[n] = load(w + n * ldw + k); });
            repeat<M>(EACH(m) { a[m] = load(x[m] + k); });
            repeat<M * N>(EACH(i) { acc[i] = fma(a[i / N], b[i % N], acc[i]); });
        }
        if (k < K) {
            F16 a[M], b[N];
            repeat<N>(EACH(n) { b[n] = load(w + n * ldw + k, int(K - k)); });
            repeat<M>(EACH(m) { a[m] = load(x[m] + k, int(K - k)); });
            repeat<M * N>(EACH(i) { acc[i] = fma(a[i / N], b[i % N], acc[i]); });
        }
        F16 parts[M * N];
        std::memcpy(parts, acc, sizeof acc);
        settle();
        int i = 0;
        for (; i + 16 <= M * N; i += 16) {
            float joined[16];
            sums(parts + i, joined);
            for (int j = i; j < i + 16; ++j) out[j / N * ldo + j % N] = joined[j - i];
        }
        for (; i < M * N; ++i) out[i / N * ldo + i % N] = sum(parts[i]);
    }
};

template <int M, typename X, typename W>
inline void dot_columns(const X* const* x, const W* w, int64_t ldw, int64_t K, int columns, float* out, int64_t ldo) {
    constexpr int N = M == 1 ? 2 * DENSE_N : DENSE_N;
    int n = 0;
    for (; n + N <= columns; n += N) DotTile<M, N, X, W>::run(x, w + n * ldw, ldw, K, out + n, ldo);
    for (; n < columns; ++n) DotTile<M, 1, X, W>::run(x, w + n * ldw, ldw, K, out + n, ldo);
}

// out[m][n] for M ≤ TILE_M rows and any number of columns.
template <int M, typename X, typename W>
inline void dot(const X* const* x, const W* w, int64_t ldw, int64_t K, int columns, float* out, int64_t ldo) {
    if constexpr (M <= DENSE_M) {
        dot_columns<M, X, W>(x, w, ldw, K, columns, out, ldo);
    } else {
        dot_columns<DENSE_M, X, W>(x, w, ldw, K, columns, out, ldo);
        dot<M - DENSE_M, X, W>(x + DENSE_M, w, ldw, K, columns, out + DENSE_M * ldo, ldo);
    }
}

template <typename W>
struct Dense {
    struct Weight {
        const W* w;  // [N, K]
        int64_t N, K;
    };
    static size_t row_bytes(int64_t K) { return size_t(K) * sizeof(float); }
    static void encode(const float* x, int64_t K, void* row) { std::memcpy(row, x, row_bytes(K)); }
    static Weight of(const Matrix& m, int64_t e) {
        return {static_cast<const W*>(m.q) + e * m.N * m.K, m.N, m.K};
    }
    static const void* block_at(const Weight& w, int64_t block) { return w.w + block * BLOCK * w.K; }
    static int64_t block_bytes(const Weight& w) { return BLOCK * w.K * int64_t(sizeof(W)); }
    template <int M>
    static __attribute__((noinline)) void tile(const Weight& w, int64_t block, const void* const* rows, float* out,
                                               Ahead) {
        const float* x[M];
        repeat<M>(EACH(m) { x[m] = static_cast<const float*>(rows[m]); });
        int64_t left = w.N - block * BLOCK;
        dot<M, float, W>(x, w.w + block * BLOCK * w.K, w.K, w.K, int(left < BLOCK ? left : BLOCK), out, BLOCK);
    }
};

}  // namespace dsctl
