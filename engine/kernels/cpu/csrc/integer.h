// Weights in 8 or 4 bits times activations in 8 bits: products are summed exactly, so the order does not matter.
#pragma once

#include "matrix.h"
#include "vec.h"

namespace dsctl {

// One vector of 16 int32 sums, each fed by four neighbouring bytes of k.
#if defined(__AVX512VNNI__)
constexpr int OFFSET = 128;  // activations are stored as u8 = q + 128 for int8 weights; `comp` takes it back
using I16 = __m512i;
inline I16 izero() { return _mm512_setzero_si512(); }
inline I16 dot_signed(I16 acc, int32_t x4, const int8_t* w) {
    return _mm512_dpbusd_epi32(acc, _mm512_set1_epi32(x4), _mm512_loadu_si512(w));
}
inline void dot_nibbles(I16& low, I16& high, int32_t x4, const uint8_t* w) {
    __m512i x = _mm512_set1_epi32(x4), b = _mm512_loadu_si512(w), mask = _mm512_set1_epi8(15);
    low = _mm512_dpbusd_epi32(low, _mm512_and_si512(b, mask), x);
    high = _mm512_dpbusd_epi32(high, _mm512_and_si512(_mm512_srli_epi16(b, 4), mask), x);
}
inline F16 minus(I16 a, const int32_t* c) {  // float(a − c)
    return _mm512_cvtepi32_ps(_mm512_sub_epi32(a, _mm512_loadu_si512(c)));
}
inline F16 minus(I16 a, int32_t c) { return _mm512_cvtepi32_ps(_mm512_sub_epi32(a, _mm512_set1_epi32(c))); }
#elif defined(__AVX2__)
constexpr int OFFSET = 0;
struct I16 {
    __m256i a, b;
};
inline I16 izero() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
// |w| · (x with w's sign): at most 2 · 127 · 127 in 16 bits, so nothing saturates.
inline __m256i dot8(__m256i acc, __m256i u, __m256i s) {
    return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(u, s), _mm256_set1_epi16(1)));
}
inline I16 dot_signed(I16 acc, int32_t x4, const int8_t* w) {
    __m256i x = _mm256_set1_epi32(x4);
    __m256i w0 = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w));
    __m256i w1 = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w + 32));
    return {dot8(acc.a, _mm256_abs_epi8(w0), _mm256_sign_epi8(x, w0)),
            dot8(acc.b, _mm256_abs_epi8(w1), _mm256_sign_epi8(x, w1))};
}
inline void dot_nibbles(I16& low, I16& high, int32_t x4, const uint8_t* w) {
    __m256i x = _mm256_set1_epi32(x4), mask = _mm256_set1_epi8(15);
    __m256i w0 = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w));
    __m256i w1 = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w + 32));
    low.a = dot8(low.a, _mm256_and_si256(w0, mask), x);
    low.b = dot8(low.b, _mm256_and_si256(w1, mask), x);
    high.a = dot8(high.a, _mm256_and_si256(_mm256_srli_epi16(w0, 4), mask), x);
    high.b = dot8(high.b, _mm256_and_si256(_mm256_srli_epi16(w1, 4), mask), x);
}
inline F16 minus(I16 v, int32_t c) {
    __m256i s = _mm256_set1_epi32(c);
    return {_mm256_cvtepi32_ps(_mm256_sub_epi32(v.a, s)), _mm256_cvtepi32_ps(_mm256_sub_epi32(v.b, s))};
}
inline F16 minus(I16 v, const int32_t*) { return {_mm256_cvtepi32_ps(v.a), _mm256_cvtepi32_ps(v.b)}; }
#else
constexpr int OFFSET = 0;
struct I16 {
    int32_t v[LANES];
};
inline I16 izero() { return {}; }
inline I16 dot_signed(I16 acc, int32_t x4, const int8_t* w) {
    int8_t x[4];
    std::memcpy(x, &x4, 4);
    for (int i = 0; i < LANES; ++i)
        acc.v[i] += x[0] * w[4 * i] + x[1] * w[4 * i + 1] + x[2] * w[4 * i + 2] + x[3] * w[4 * i + 3];
    return acc;
}
inline void dot_nibbles(I16& low, I16& high, int32_t x4, const uint8_t* w) {
    int8_t x[4];
    std::memcpy(x, &x4, 4);
    for (int i = 0; i < LANES; ++i)
        for (int j = 0; j < 4; ++j) {
            low.v[i] += x[j] * (w[4 * i + j] & 15);
            high.v[i] += x[j] * (w[4 * i + j] >> 4);
        }
}
inline F16 minus(I16 a, int32_t c) {
    float f[LANES];
    for (int i = 0; i < LANES; ++i) f[i] = float(a.v[i] - c);
    return load(f);
}
inline F16 minus(I16 a, const int32_t*) { return minus(a, 0); }
#endif

// q[k] = round(x[k] · 127/amax) as bytes plus `offset`; returns amax/127. A row with inf or NaN gives scale NaN.
inline float quantise(const float* x, int64_t K, int offset, uint8_t* q) {
    uint32_t peak = 0;
    int64_t k0 = 0;
#if defined(__AVX512F__)
    __m512i peaks = _mm512_setzero_si512(), sign = _mm512_set1_epi32(0x7fffffff);
    for (; k0 + LANES <= K; k0 += LANES)
        peaks = _mm512_max_epu32(peaks, _mm512_and_si512(sign, _mm512_loadu_si512(x + k0)));
    peak = _mm512_reduce_max_epu32(peaks);
#endif
    for (int64_t k = k0; k < K; ++k) {
        float f = x[k];
        uint32_t u;
        std::memcpy(&u, &f, 4);
        u &= 0x7fffffffu;
        peak = u > peak ? u : peak;
    }
    float amax;
    std::memcpy(&amax, &peak, 4);
    int64_t padded = round_up(K, 4);
    bool finite = peak < 0x7f800000u;
    if (!finite || amax < 1e-30f) {
        std::memset(q, offset, size_t(padded));
        return finite ? 0.f : NAN;
    }
    float inverse = 127.f / amax;
    int64_t k = 0;
#if defined(__AVX512F__)
    for (; k + LANES <= K; k += LANES) {
        __m512i v = _mm512_cvtps_epi32(mul(load(x + k), set1(inverse)));  // to the nearest even integer
        v = _mm512_add_epi32(v, _mm512_set1_epi32(offset));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(q + k), _mm512_cvtepi32_epi8(v));
    }
#endif
    const float magic = 12582912.f;  // rounds to the nearest even integer
    for (; k < K; ++k) q[k] = uint8_t(int32_t((x[k] * inverse + magic) - magic) + offset);
    for (; k < padded; ++k) q[k] = uint8_t(offset);
    return amax / 127.f;
}

// int8: one scale per output channel, one per activation row.
struct Int8 {
    struct Weight {
        const int8_t* q;      // [N/64][K/4][64][4], zero-padded
        const float* scale;   // [N padded to 64]
        const int32_t* comp;  // [N padded to 64]: 128 · Σ_k q
        int64_t N, K;
    };
    static size_t row_bytes(int64_t K) { return size_t(round_up(round_up(K, 4) + 4, 64)); }
    static void encode(const float* x, int64_t K, void* row) {  // bytes, then the scale at the end of the row
        float s = quantise(x, K, OFFSET, static_cast<uint8_t*>(row));
        std::memcpy(static_cast<char*>(row) + round_up(K, 4), &s, 4);
    }
    static Weight of(const Matrix& m, int64_t e) {
        int64_t n = round_up(m.N, BLOCK), k = round_up(m.K, 4);
        return {static_cast<const int8_t*>(m.q) + e * n * k, static_cast<const float*>(m.scale) + e * n, m.comp + e * n, m.N, m.K};
    }
    static const void* block_at(const Weight& w, int64_t block) { return w.q + block * block_bytes(w); }
    static int64_t block_bytes(const Weight& w) { return BLOCK * round_up(w.K, 4); }
    template <int M, int V>
    static inline void columns(const Weight& w, int64_t block, int first_vector, const void* const* rows, float* out,
                               Ahead ahead) {
        int64_t K4 = (w.K + 3) / 4, step = ahead.bytes / (2 * K4);
        const int8_t* q = w.q + block * BLOCK * K4 * 4 + first_vector * 64;
        const char* next = ahead.at;
        I16 acc[M * V];
        repeat<M * V>(EACH(i) { acc[i] = izero(); });
        for (int64_t k = 0; k < K4; ++k, q += BLOCK * 4) {
            if constexpr (V == 2) {
                prefetch_far(next);
                prefetch_far(next + K4 * step);
                next += step;
            } else if constexpr (V == 4) {
                const char* lead = leading(q, (K4 - k) * BLOCK * 4, ahead);
                repeat<V>(EACH(v) { prefetch_far(lead + v * 64); });
            }
            int32_t x4[M];
            repeat<M>(EACH(m) { std::memcpy(&x4[m], static_cast<const char*>(rows[m]) + 4 * k, 4); });
            repeat<M * V>(EACH(i) { acc[i] = dot_signed(acc[i], x4[i / V], q + i % V * 64); });
        }
        I16 sums[M * V];
        std::memcpy(sums, acc, sizeof acc);
        settle();
        for (int i = 0; i < M * V; ++i) {
            float s;
            std::memcpy(&s, static_cast<const char*>(rows[i / V]) + 4 * K4, 4);
            int64_t at = (first_vector + i % V) * LANES, n = block * BLOCK + at;
            store(out + i / V * BLOCK + at, mul(mul(minus(sums[i], w.comp + n), set1(s)), load(w.scale + n)));
        }
    }
    template <int M>
    static __attribute__((noinline)) void tile(const Weight& w, int64_t block, const void* const* rows, float* out,
                                               Ahead ahead) {
        constexpr int V = M == 1 ? 4 : M <= WIDE_M || COLUMN_VECTORS == 1 ? COLUMN_VECTORS : 2;
        ahead.bytes = ahead.bytes * V / 4;
        for (int v = 0; v < 4; v += V, ahead.at += ahead.bytes) columns<M, V>(w, block, v, rows, out, ahead);
    }
};

// int4: weights 0 … 15 with zero point 8, one bf16 scale per `group` values of k and output channel.
struct Int4 {
    struct Weight {
        const uint8_t* q;   // [N/64][K/4][2][64]: low nibbles are columns 32h … +15, high nibbles +16 … +31
        const bf16* scale;  // [N/64][K/group][64]
        int64_t N, K, group;
    };
    static size_t row_bytes(int64_t K) { return size_t(round_up(K + 4 + K / 8, 64)); }  // a sum for every 32 values
    static void encode(const float* x, int64_t K, void* row) {
        uint8_t* q = static_cast<uint8_t*>(row);
        float s = quantise(x, K, 0, q);
        std::memcpy(q + K, &s, 4);
        for (int64_t k = 0; k < K; k += 32) {
            int32_t total = 0;
            for (int i = 0; i < 32; ++i) total += int8_t(q[k + i]);
            total *= 8;
            std::memcpy(q + K + 4 + k / 8, &total, 4);
        }
    }
    static Weight of(const Matrix& m, int64_t e) {
        int64_t n = round_up(m.N, BLOCK);
        return {static_cast<const uint8_t*>(m.q) + e * n * m.K / 2,
                static_cast<const bf16*>(m.scale) + e * n * (m.K / m.group), m.N, m.K, m.group};
    }
    // 8 · Σ x over a group: what the weights' zero point adds.
    static inline int32_t zero_point(const void* row, int64_t K, int64_t first, int64_t group) {
        int32_t total = 0;
        for (int64_t k = first; k < first + group; k += 32) {
            int32_t part;
            std::memcpy(&part, static_cast<const char*>(row) + K + 4 + k / 8, 4);
            total += part;
        }
        return total;
    }
    static const void* block_at(const Weight& w, int64_t block) { return w.q + block * block_bytes(w); }
    static int64_t block_bytes(const Weight& w) { return BLOCK / 2 * w.K; }
    template <int M, int H>
    static inline void columns(const Weight& w, int64_t block, int first_half, const void* const* rows, float* out,
                               Ahead ahead) {
        int64_t step = ahead.bytes / (w.K / 4);
        const char* next = ahead.at;
        const uint8_t* q = w.q + block * (BLOCK / 2) * w.K + first_half * 64;
        const bf16* scale = w.scale + block * BLOCK * (w.K / w.group) + first_half * 32;
        constexpr int V = 2 * H;
        F16 total[M * V];
        repeat<M * V>(EACH(i) { total[i] = zero(); });
        for (int64_t k0 = 0; k0 < w.K; k0 += w.group, scale += BLOCK) {
            I16 acc[M * V];
            repeat<M * V>(EACH(i) { acc[i] = izero(); });
            for (int64_t k = k0; k < k0 + w.group; k += 4, q += 128) {
                if constexpr (H == 1) {
                    prefetch_far(next);
                    next += step;
                } else {
                    const char* lead = leading(q, (w.K - k) / 4 * 128, ahead);
                    prefetch_far(lead);
                    prefetch_far(lead + 64);
                }
                int32_t x4[M];
                repeat<M>(EACH(m) { std::memcpy(&x4[m], static_cast<const char*>(rows[m]) + k, 4); });
                repeat<M * H>(EACH(i) { dot_nibbles(acc[2 * i], acc[2 * i + 1], x4[i / H], q + i % H * 64); });
            }
            int32_t zero_part[M];
            repeat<M>(EACH(m) { zero_part[m] = zero_point(rows[m], w.K, k0, w.group); });
            repeat<M * V>(EACH(i) {
                total[i] = fma(minus(acc[i], zero_part[i / V]), load(scale + i % V * LANES), total[i]);
            });
        }
        F16 sums[M * V];
        std::memcpy(sums, total, sizeof total);
        settle();
        for (int i = 0; i < M * V; ++i) {
            float s;
            std::memcpy(&s, static_cast<const char*>(rows[i / V]) + w.K, 4);
            store(out + i / V * BLOCK + first_half * 32 + i % V * LANES, mul(sums[i], set1(s)));
        }
    }
    template <int M>
    static __attribute__((noinline)) void tile(const Weight& w, int64_t block, const void* const* rows, float* out,
                                               Ahead ahead) {
        constexpr int H = (M <= 2 && COLUMN_VECTORS == 4) ? 2 : 1;
        ahead.bytes = ahead.bytes * H / 2;
        for (int h = 0; h < 2; h += H, ahead.at += ahead.bytes) columns<M, H>(w, block, h, rows, out, ahead);
    }
};

}  // namespace dsctl
