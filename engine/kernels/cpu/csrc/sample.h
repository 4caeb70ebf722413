// The draw of a token: argmax of logits / temperature + Gumbel noise by counter, but for the last bits of the noise.
#pragma once

#include <cstdint>

namespace dsctl {

struct Draw {  // mirrored in structs.py
    const float* logits;  // [size], finite
    int64_t size;
    double temperature;               // above 0
    uint64_t seed, choice, position;  // where the row's noise lies: word v % 4 of Philox4x32-10 of
                                      // (v / 4, position's low half, choice, position's high half), key seed
    int64_t* ids;                     // out [most]
    int64_t most;
};

// Writes the ids, rising, whose sum may be the largest when every sum is off by a little: the caller, who knows the noise
// to the last bit, chooses among them. Returns how many they are, or −1 when they are more than `most`.
int64_t contenders(const Draw& d);

}  // namespace dsctl
