// What the caller says about a weight matrix (or a stack of them, one per expert), and the shape all formats share.
//
// A format is a struct with the members below, so that one driver (drive.h) serves linear layers and experts alike:
//   Weight, of(matrix, e)       the pieces of matrix e of the stack
//   row_bytes(K), encode(x, K, row)   prepare a row of activations
//   tile<M>(w, b, rows, out, ahead)   out[m][0..63] = rows[m] · columns 64b … 64b+63, for M = 1 … TILE_M rows
//   block_at(w, b)              where the weights of columns 64b … begin: what `ahead` points to
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
// 24 sums in 32 registers: up to 6 rows of 64 columns, up to 12 rows of 32
constexpr int TILE_M = 12, WIDE_M = 6, DENSE_M = 6, DENSE_N = 4, COLUMN_VECTORS = 4;
#else
constexpr int TILE_M = 4, WIDE_M = 0, DENSE_M = 2, DENSE_N = 2, COLUMN_VECTORS = 1;
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

// In assembly, since GCC takes functions that only prefetch for functions without effect and drops the calls.
inline void prefetch(const void* p) {
#if defined(__x86_64__)
    asm volatile("prefetcht0 %0" ::"m"(*static_cast<const char*>(p)));
#else
    __builtin_prefetch(p, 0, 3);
#endif
}
inline void prefetch_far(const void* p) {  // not into the first-level cache
#if defined(__x86_64__)
    asm volatile("prefetcht1 %0" ::"m"(*static_cast<const char*>(p)));
#else
    __builtin_prefetch(p, 0, 2);
#endif
}

// Weights that are read after the present ones. Each tile of rows that passes over a block fetches its share of them, so
// that memory is never idle while rows are computed.
struct Ahead {
    const char* at = nullptr;
    int64_t bytes = 0;  // this tile's share
};

// For few rows the weights are read once, as a stream: the processor's own fetching stops at every page, so lines are asked
// for LEAD bytes before their turn, at the end of a block those of the next.
constexpr int64_t LEAD = 4096;
inline const char* leading(const void* q, int64_t left, const Ahead& ahead) {  // `left`: bytes of the block from q on
    return left > LEAD || ahead.at == nullptr ? static_cast<const char*>(q) + LEAD : ahead.at + (LEAD - left);
}

inline int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }
inline int64_t blocks(int64_t n) { return (n + BLOCK - 1) / BLOCK; }

}  // namespace dsctl
