// One set of vector names over the instruction sets: a vector of W floats `V` whose operators are the compiler's own.
//
// Everything here and in the kernels has internal linkage: the same templates are compiled once for each instruction
// set, and a linker that merged them would run AVX-512 code on a machine without it.
#pragma once
#if MLXLM_LEVEL >= 512
#include "simd_avx512.h"
#elif MLXLM_LEVEL == 2
#include "simd_avx2.h"
#else
#include "simd_generic.h"
#endif

#define UNROLL _Pragma("GCC unroll 16")
// For what must not become a call: inside an inner loop a call passes its vectors by memory.
#define ALWAYS_INLINE inline __attribute__((always_inline))

namespace {
using namespace mlxlm;

typedef uint32_t U __attribute__((vector_size(4 * W)));

inline int lesser(int a, int b) { return a < b ? a : b; }
inline int64_t lesser(int64_t a, int64_t b) { return a < b ? a : b; }
inline int greater(int a, int b) { return a > b ? a : b; }
inline int round_up(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }

inline V splat(float x) { return x - V{}; }
inline V fma(V a, V b, V c) { return a * b + c; }

inline V load(const float* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
inline V load(const bf16* p) { return load_brain(p); }
inline V load(const f16* p) { return load_half(p); }
inline void store(float* p, V v) { __builtin_memcpy(p, &v, sizeof v); }
#if MLXLM_LEVEL == 513
inline void store(bf16* p, V v) { store_brain(p, v); }
#else
inline void store(bf16* p, V v) {
  U u = (U)v;
  U rounded = (u + 0x7fff + (u >> 16 & 1)) >> 16;
  // Rounding a NaN could carry into the exponent or the sign; a quiet bit keeps it one.
  H h = __builtin_convertvector(v == v ? rounded : (u >> 16 | 0x40), H);
  __builtin_memcpy(p, &h, sizeof h);
}
#endif
inline void store(f16* p, V v) { store_half(p, v); }

#if MLXLM_LEVEL >= 512
inline V load_n(const float* p, int n) { return (V)_mm512_maskz_loadu_ps(first_lanes(n), p); }
inline V load_n(const bf16* p, int n) {
  return (V)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first_lanes(n), p)), 16);
}
inline V load_n(const f16* p, int n) { return (V)_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first_lanes(n), p)); }
inline void store_n(float* p, V v, int n) { _mm512_mask_storeu_ps(p, first_lanes(n), (__m512)v); }
template <class T>
inline void store_n(T* p, V v, int n) {
  alignas(32) T whole[W];
  store(whole, v);
  _mm256_mask_storeu_epi16(p, first_lanes(n), _mm256_load_si256((const __m256i*)whole));
}
#else
template <class T>
inline V load_n(const T* p, int n) {
  T whole[W] = {};
  for (int i = 0; i < n; i++) whole[i] = p[i];
  return load(whole);
}
template <class T>
inline void store_n(T* p, V v, int n) {
  T whole[W];
  store(whole, v);
  for (int i = 0; i < n; i++) p[i] = whole[i];
}
#endif

inline float value(float x) { return x; }
inline float value(bf16 x) {
  uint32_t bits = uint32_t(x.bits) << 16;
  float f;
  __builtin_memcpy(&f, &bits, 4);
  return f;
}
inline float value(f16 x) { return f16_value(x.bits); }
inline void put(bf16* p, float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  p->bits = uint16_t(x == x ? (bits + 0x7fff + (bits >> 16 & 1)) >> 16 : bits >> 16 | 0x40);
}
inline void put(f16* p, float x) { p->bits = f16_bits(x); }
inline void put(float* p, float x) { *p = x; }

// e^x to one unit in the last place or two; infinite above 88.72, 0 below -87.33, NaN for NaN.
inline V vexp(V x) {
  V bounded = x > 89.f ? splat(89.f) : x;
  bounded = bounded < -89.f ? splat(-89.f) : bounded;
  const float shifter = 12582912.f;  // 1.5 * 2^23: adding it rounds to an integer, in the low bits
  V n = fma(bounded, splat(1.44269504f), splat(shifter));
  I exponent = (I)n << 23;
  n -= shifter;
  V r = fma(n, splat(-0.693359375f), bounded);
  r = fma(n, splat(2.12194440e-4f), r);
  V p = splat(1.9875691500e-4f);
  p = fma(p, r, splat(1.3981999507e-3f));
  p = fma(p, r, splat(8.3334519073e-3f));
  p = fma(p, r, splat(4.1665795894e-2f));
  p = fma(p, r, splat(1.6666665459e-1f));
  p = fma(p, r, splat(5.0000001201e-1f));
  p = fma(p, r * r, r) + 1.f;
  V y = (V)((I)p + exponent);
  y = x > 88.72283f ? splat(__builtin_inff()) : y;
  y = x < -87.33654f ? splat(0.f) : y;
  return x == x ? y : x;
}

// Within 2e-7; a series where the quotient would lose digits.
inline V vtanh(V x) {
  const V size = x < 0.f ? -x : x, square = x * x;
  const V e = vexp(-2.f * size), quotient = (1.f - e) / (1.f + e);
  V series = fma(square, splat(62.f / 2835), splat(-17.f / 315));
  series = fma(fma(fma(series, square, splat(2.f / 15)), square, splat(-1.f / 3)), square * x, x);
  return size < 0.25f ? series : x < 0.f ? -quotient : quotient;
}

template <class F>
inline void by_type(Dtype t, F&& f) {
  if (t == Dtype::f32) f((float*)nullptr);
  else if (t == Dtype::bf16) f((bf16*)nullptr);
  else f((f16*)nullptr);
}

}  // namespace
