// Where a step's time goes: nanoseconds, weight bytes and calls of each kind of work, summed while it is switched on.
#pragma once

#include <cstdint>
#include <ctime>

namespace dsctl {

enum Op : int {  // named in library.py
    EMBED, NORM, PROJECT, LATENT_ROWS, QUERY_UP, ROTATE, ABSORB_K, ATTEND, ABSORB_V, PROMPT, OUT, ROUTER, ROUTE,
    EXPERTS, DENSE, ADD, HEAD, OPS
};

struct Profile {
    int on = 0;  // 1: wall time; 2: the calling thread's own, for one thread on a busy machine
    int64_t ns[OPS] = {}, bytes[OPS] = {}, calls[OPS] = {};
};
inline Profile profile;  // of one thread at a time: a measurement runs alone

inline int64_t now_ns() {
    timespec t;
    clock_gettime(profile.on == 2 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    return int64_t(t.tv_sec) * 1000000000 + t.tv_nsec;
}

// The time from here to the end of the scope belongs to `op`.
struct Timed {
    Op op;
    int64_t began;
    explicit Timed(Op o, int64_t bytes = 0) : op(o), began(profile.on ? now_ns() : 0) {
        if (began) profile.bytes[o] += bytes, ++profile.calls[o];
    }
    ~Timed() {
        if (began) profile.ns[op] += now_ns() - began;
    }
};

}  // namespace dsctl
