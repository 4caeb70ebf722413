// One decoder layer and one step's rows, as the caller describes them (mirrored in structs.py).
#pragma once

#include "matrices.h"
#include "rows.h"

namespace dsctl {

constexpr int64_t MOST_LATENT = 4096;  // rank + rope

struct Attention {
    const float* input_norm;  // [hidden]
    const float* q_norm;      // [q_rank] or null: queries are projected directly
    const float* kv_norm;     // [rank]
    Matrix down;              // hidden → [q_rank or heads × (nope + rope) | rank | rope]
    Matrix q_up;              // q_rank → heads × (nope + rope); N = 0 without q_norm
    Matrix expand;            // rank → heads × (nope + values), for prompt rows
    Matrix absorb_k;          // per head nope → rank, for generated rows
    Matrix absorb_v;          // per head rank → values
    Matrix out;               // heads × values → hidden
    int64_t heads, nope, rope, rank, values;
    float eps, scale;         // scale: of the attention scores
};

struct FeedForward {
    const float* norm;                // [hidden]
    Matrix router;                    // hidden → experts; N = 0: a plain MLP, which stands in `shared`
    Matrix gate, up, down;            // the routed experts
    Matrix shared_gate, shared_up, shared_down;  // N = 0: none
    Router rule;
    float eps;
};

struct Layer {
    Attention attention;
    FeedForward forward;
};

struct PromptPart {
    int64_t start, length;  // rows of the batch
    int64_t position;       // of the first row
    const int64_t* table;   // blocks of the sequence
};

struct Batch {
    int64_t rows, prompts, generated;  // rows of the prompt parts come first, then the generated ones
    const float *cos, *sin;            // [rows, rope]
    const int64_t* write;              // [rows]: the slot each row's latent goes to
    const PromptPart* parts;           // [prompts]
    const int64_t* positions;          // [generated]
    const int64_t* const* tables;      // [generated]: blocks of the row's sequence
    int64_t block_size;
    int32_t cache_is_half, threads;
};

void run_layer(const Layer& layer, const Batch& batch, float* x, void* cache);

}  // namespace dsctl
