// Sixteen float lanes with the same meaning on every instruction set, so that one algorithm serves all of them.
//
// The lane count never changes: a sum over K is sixteen partial sums (k mod 16) joined by one fixed tree, whatever
// the machine. Bits depend on the instruction set only through fused multiply-add (portable code has none).
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace dsctl {

constexpr int LANES = 16;

struct bf16 {
    uint16_t bits;
};

inline float to_float(float x) { return x; }
inline float to_float(bf16 x) {
    uint32_t u = uint32_t(x.bits) << 16;
    float f;
    std::memcpy(&f, &u, 4);
    return f;
}
inline void from_float(float x, float& y) { y = x; }
inline void from_float(float x, bf16& y) {  // round to nearest even; NaN stays NaN
    uint32_t u;
    std::memcpy(&u, &x, 4);
    y.bits = (x != x) ? uint16_t(0x7fc0) : uint16_t((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

struct half {  // IEEE binary16, as the latent cache stores it
    uint16_t bits;
};
inline float to_float(half x) {
    uint32_t sign = uint32_t(x.bits & 0x8000) << 16, e = (x.bits >> 10) & 31, m = x.bits & 0x3ff, u;
    float f;
    if (e == 0) {
        f = float(m) * 5.9604644775390625e-8f;  // 2^-24
        std::memcpy(&u, &f, 4);
        u |= sign;
    } else {
        u = sign | (e == 31 ? 0x7f800000u : (e + 112) << 23) | m << 13;
    }
    std::memcpy(&f, &u, 4);
    return f;
}
inline void from_float(float x, half& y) {  // round to nearest even
    uint32_t u, h;
    std::memcpy(&u, &x, 4);
    uint32_t sign = u >> 16 & 0x8000;
    u &= 0x7fffffffu;
    if (u >= 0x47800000u) {
        h = u > 0x7f800000u ? 0x7e00 : 0x7c00;
    } else if (u < 0x38800000u) {  // subnormal: the addition rounds
        float f;
        std::memcpy(&f, &u, 4);
        f += 0.5f;
        std::memcpy(&h, &f, 4);
        h -= 0x3f000000u;
    } else {
        h = (u + 0xc8000fffu + ((u >> 13) & 1u)) >> 13;
    }
    y.bits = uint16_t(h | sign);
}

#if defined(__AVX512F__)

using F16 = __m512;  // no struct around it: compilers keep arrays of those in memory
inline __mmask16 first(int n) { return __mmask16((1u << n) - 1u); }
inline F16 zero() { return _mm512_setzero_ps(); }
inline F16 set1(float x) { return _mm512_set1_ps(x); }
inline F16 load(const float* p) { return _mm512_loadu_ps(p); }
inline F16 load(const bf16* p) {
    __m512i w = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    return _mm512_castsi512_ps(_mm512_slli_epi32(w, 16));
}
inline F16 load(const half* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
inline F16 load(const half* p, int n) { return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first(n), p)); }
inline F16 load(const float* p, int n) { return _mm512_maskz_loadu_ps(first(n), p); }
inline F16 load(const bf16* p, int n) {
    __m512i w = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first(n), p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(w, 16));
}
inline void store(float* p, F16 a) { _mm512_storeu_ps(p, a); }
inline F16 add(F16 a, F16 b) { return _mm512_add_ps(a, b); }
inline F16 sub(F16 a, F16 b) { return _mm512_sub_ps(a, b); }
inline F16 mul(F16 a, F16 b) { return _mm512_mul_ps(a, b); }
inline F16 div(F16 a, F16 b) { return _mm512_div_ps(a, b); }
inline F16 fma(F16 a, F16 b, F16 c) { return _mm512_fmadd_ps(a, b, c); }
inline F16 max(F16 a, F16 b) { return _mm512_max_ps(a, b); }  // b when either is NaN
inline F16 min(F16 a, F16 b) { return _mm512_min_ps(a, b); }
inline F16 nearest(F16 a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline F16 power_of_two(F16 n) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127)), 23));
}
inline F16 zero_below(F16 x, float limit, F16 y) {  // y, but 0 where x < limit
    return _mm512_mask_mov_ps(y, _mm512_cmp_ps_mask(x, _mm512_set1_ps(limit), _CMP_LT_OQ), _mm512_setzero_ps());
}

#elif defined(__AVX2__)

struct F16 {
    __m256 a, b;
};
inline F16 zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline F16 set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline F16 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline __m256 widen(const bf16* p) {
    __m256i w = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(w, 16));
}
inline F16 load(const bf16* p) { return {widen(p), widen(p + 8)}; }
inline __m256 widen(const half* p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
inline F16 load(const half* p) { return {widen(p), widen(p + 8)}; }
inline void store(float* p, F16 x) {
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
}
inline F16 add(F16 x, F16 y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
inline F16 sub(F16 x, F16 y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
inline F16 mul(F16 x, F16 y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
inline F16 div(F16 x, F16 y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
inline F16 fma(F16 x, F16 y, F16 z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
inline F16 max(F16 x, F16 y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
inline F16 min(F16 x, F16 y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
inline __m256 nearest8(__m256 x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline F16 nearest(F16 x) { return {nearest8(x.a), nearest8(x.b)}; }
inline __m256 power8(__m256 n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
}
inline F16 power_of_two(F16 n) { return {power8(n.a), power8(n.b)}; }
inline F16 zero_below(F16 x, float limit, F16 y) {
    __m256 l = _mm256_set1_ps(limit);
    return {_mm256_andnot_ps(_mm256_cmp_ps(x.a, l, _CMP_LT_OQ), y.a),
            _mm256_andnot_ps(_mm256_cmp_ps(x.b, l, _CMP_LT_OQ), y.b)};
}

#else

typedef float F16 __attribute__((vector_size(64)));
inline F16 set1(float x) { return F16{} + x; }
inline F16 zero() { return F16{}; }
inline F16 load(const float* p) {
    F16 r;
    std::memcpy(&r, p, 64);
    return r;
}
template <typename T>
inline F16 load(const T* p) {
    F16 r;
    for (int i = 0; i < LANES; ++i) r[i] = to_float(p[i]);
    return r;
}
inline void store(float* p, F16 a) { std::memcpy(p, &a, 64); }
inline F16 add(F16 a, F16 b) { return a + b; }
inline F16 sub(F16 a, F16 b) { return a - b; }
inline F16 mul(F16 a, F16 b) { return a * b; }
inline F16 div(F16 a, F16 b) { return a / b; }
inline F16 fma(F16 a, F16 b, F16 c) { return a * b + c; }
inline F16 max(F16 a, F16 b) { return a > b ? a : b; }
inline F16 min(F16 a, F16 b) { return a < b ? a : b; }
inline F16 nearest(F16 a) {
    const float magic = 12582912.f;  // 1.5 × 2^23: adding it rounds to an integer
    return (a + magic) - magic;
}
inline F16 power_of_two(F16 n) {
    F16 r;
    for (int i = 0; i < LANES; ++i) {
        int32_t u = (n[i] == n[i] ? int32_t(n[i]) + 127 : 127) << 23;
        float f;
        std::memcpy(&f, &u, 4);
        r[i] = f;
    }
    return r;
}
inline F16 zero_below(F16 x, float limit, F16 y) { return x < limit ? F16{} : y; }

#endif

#if !defined(__AVX512F__)
template <typename T>
inline F16 load(const T* p, int n) {  // the first n lanes, zeros after them; reads nothing beyond p[n-1]
    T padded[LANES] = {};
    std::memcpy(padded, p, size_t(n) * sizeof(T));
    return load(padded);
}
#endif

inline void store(bf16* p, F16 a) {
    float f[LANES];
    store(f, a);
    for (int i = 0; i < LANES; ++i) from_float(f[i], p[i]);
}
template <typename T>
inline void store(T* p, F16 a, int n) {
    T t[LANES];
    store(t, a);
    std::memcpy(p, t, size_t(n) * sizeof(T));
}

// The fixed tree: lane i with i+8, then +4, +2, +1.
inline float sum(F16 x) {
#if defined(__AVX2__)
#if defined(__AVX512F__)
    __m256 y = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
#else
    __m256 y = _mm256_add_ps(x.a, x.b);
#endif
    __m128 z = _mm_add_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1));
    z = _mm_add_ps(z, _mm_movehl_ps(z, z));
    return _mm_cvtss_f32(_mm_add_ss(z, _mm_movehdup_ps(z)));
#else
    float f[LANES];
    store(f, x);
    for (int step = 8; step >= 1; step /= 2)
        for (int i = 0; i < step; ++i) f[i] += f[i + step];
    return f[0];
#endif
}

// out[i] = sum(x[i]) for 16 vectors: the same trees, grown together.
inline void sums(const F16* x, float* out) {
#if defined(__AVX512F__)
    F16 pair[8], quad[4], half[2];
    for (int i = 0; i < 8; ++i) {  // x is taken in the order in which its sums come out in lanes 0 … 15
        int a = 2 * i, b = a + 1;
        F16 u = x[4 * (a % 4) + a / 4], v = x[4 * (b % 4) + b / 4];
        pair[i] = add(_mm512_shuffle_f32x4(u, v, 0x44), _mm512_shuffle_f32x4(u, v, 0xee));
    }
    for (int i = 0; i < 4; ++i)
        quad[i] = add(_mm512_shuffle_f32x4(pair[2 * i], pair[2 * i + 1], 0x88),
                      _mm512_shuffle_f32x4(pair[2 * i], pair[2 * i + 1], 0xdd));
    for (int i = 0; i < 2; ++i)
        half[i] = add(_mm512_shuffle_ps(quad[2 * i], quad[2 * i + 1], 0x44),
                      _mm512_shuffle_ps(quad[2 * i], quad[2 * i + 1], 0xee));
    store(out, add(_mm512_shuffle_ps(half[0], half[1], 0x88), _mm512_shuffle_ps(half[0], half[1], 0xdd)));
#else
    for (int i = 0; i < 16; ++i) out[i] = sum(x[i]);
#endif
}
// out[i · stride + j] = in[j][i] for i, j < 16.
inline void transpose(const float* const* in, float* out, int64_t stride) {
#if defined(__AVX512F__)
    __m512 a[16], b[16];
    for (int i = 0; i < 16; ++i) a[i] = _mm512_loadu_ps(in[i]);
    for (int i = 0; i < 16; i += 2) {
        b[i] = _mm512_unpacklo_ps(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int h = 0; h < 2; ++h) {
            __m512d x = _mm512_castps_pd(b[i + h]), y = _mm512_castps_pd(b[i + 2 + h]);
            a[i + 2 * h] = _mm512_castpd_ps(_mm512_unpacklo_pd(x, y));
            a[i + 2 * h + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(x, y));
        }
    for (int i = 0; i < 4; ++i) {  // a[4g + i]: rows 4g … 4g+3 of columns i, i+4, i+8, i+12
        __m512 low = _mm512_shuffle_f32x4(a[i], a[4 + i], 0x88), high = _mm512_shuffle_f32x4(a[8 + i], a[12 + i], 0x88);
        __m512 odd = _mm512_shuffle_f32x4(a[i], a[4 + i], 0xdd), rest = _mm512_shuffle_f32x4(a[8 + i], a[12 + i], 0xdd);
        _mm512_storeu_ps(out + i * stride, _mm512_shuffle_f32x4(low, high, 0x88));
        _mm512_storeu_ps(out + (i + 8) * stride, _mm512_shuffle_f32x4(low, high, 0xdd));
        _mm512_storeu_ps(out + (i + 4) * stride, _mm512_shuffle_f32x4(odd, rest, 0x88));
        _mm512_storeu_ps(out + (i + 12) * stride, _mm512_shuffle_f32x4(odd, rest, 0xdd));
    }
#else
    for (int i = 0; i < 16; ++i)
        for (int j = 0; j < 16; ++j) out[i * stride + j] = in[j][i];
#endif
}

inline float largest(F16 x) {
#if defined(__AVX512F__)
    return _mm512_reduce_max_ps(x);
#endif
    float f[LANES];
    store(f, x);
    float m = f[0];
    for (int i = 1; i < LANES; ++i) m = f[i] > m ? f[i] : m;
    return m;
}

// e^x to about 1 ulp in (-87.3, 88); 0 below; NaN stays NaN. Cody-Waite reduction and a degree-6 polynomial.
inline F16 exp(F16 x) {
    F16 c = min(set1(88.f), max(set1(-87.33f), x));
    F16 n = nearest(mul(c, set1(1.44269504f)));
    F16 r = fma(n, set1(-0.693359375f), c);
    r = fma(n, set1(2.12194440e-4f), r);
    F16 p = set1(1.9875691500e-4f);
    p = fma(p, r, set1(1.3981999507e-3f));
    p = fma(p, r, set1(8.3334519073e-3f));
    p = fma(p, r, set1(4.1665795894e-2f));
    p = fma(p, r, set1(1.6666665459e-1f));
    p = fma(p, r, set1(5.0000001201e-1f));
    p = add(fma(p, mul(r, r), r), set1(1.f));
    return zero_below(x, -87.33f, mul(p, power_of_two(n)));
}

inline F16 silu(F16 x) { return div(x, add(set1(1.f), exp(sub(zero(), x)))); }

}  // namespace dsctl
