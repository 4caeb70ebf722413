// What the caller says about a weight matrix (or a stack of them, one per expert), and the shape all formats share.
//
// A format is a struct with the members below, so that one driver (drive.h) serves linear layers and experts alike:
//   Weight, of(matrix, e)       the pieces of matrix e of the stack
//   row_bytes(K), encode(x, K, row)   prepare a row of activations
//   tile<M>(w, b, rows, out)    out[m][0..63] = rows[m] · columns 64b … 64b+63, for M = 1 … TILE_M rows
// A row's result depends on that row only: M merely shares the reading of the weights.
#pragma once

#include <utility>

#include "vec.h"

namespace dsctl {

// F32 and BF16 weights meet float activations, INT8 and INT4 ones activations in eight bits.
enum Kind : int32_t { F32 = 0, BF16 = 1, INT8 = 2, INT4 = 3 };

struct Matrix {  // mirrored in library.py
    int32_t kind;
    int32_t group;        // int4: values of k that share a scale
    const void* q;        // F32, BF16: [E, N, K]; packed otherwise (integer.h)
    const void* scale;    // int8: float; int4: bf16
    const int32_t* comp;  // int8: 128 · Σ_k q
    int64_t E, N, K;
};

constexpr int BLOCK = 64;  // output columns of one tile
#if defined(__AVX512F__)
constexpr int TILE_M = 6, DENSE_M = 6, DENSE_N = 4, COLUMN_VECTORS = 4;  // 24 sums in 32 registers
#else
constexpr int TILE_M = 4, DENSE_M = 2, DENSE_N = 2, COLUMN_VECTORS = 1;
#endif

// body(0), …, body(N - 1) with constant arguments: sums in an array then stay in registers, which loops do not ensure.
template <typename Body, int... I>
inline __attribute__((always_inline)) void repeat(Body&& body, std::integer_sequence<int, I...>) {
    (body(std::integral_constant<int, I>{}), ...);
}
template <int N, typename Body>
inline __attribute__((always_inline)) void repeat(Body&& body) {
    repeat(body, std::make_integer_sequence<int, N>{});
}
// Sums go to memory here, once: without it compilers spread what follows over the loop and store them every time round.
inline void settle() { asm volatile("" ::: "memory"); }
#define EACH(i) [&](auto i) __attribute__((always_inline))

inline void prefetch(const void* p) { __builtin_prefetch(p, 0, 3); }

inline int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }
inline int64_t blocks(int64_t n) { return (n + BLOCK - 1) / BLOCK; }

}  // namespace dsctl
