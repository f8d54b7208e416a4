// Sixteen lanes: AVX-512 F, BW, VL and DQ. Codes of up to five bits become numbers by one table look-up.
#pragma once
#include <immintrin.h>

#include "types.h"

namespace {
using namespace mlxlm;

constexpr int W = 16;
typedef float V __attribute__((vector_size(64)));
typedef int32_t I __attribute__((vector_size(64)));
typedef uint16_t H __attribute__((vector_size(32)));

constexpr int ROWS = 12;  // rows of a matmul tile: 12 x 2 accumulators fit 32 registers with room to load ahead

inline float f16_value(uint16_t h) { return _cvtsh_ss(h); }
inline uint16_t f16_bits(float x) { return _cvtss_sh(x, 0); }
inline V load_brain(const bf16* p) {
  return (V)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16);
}
#if MLXLM_LEVEL == 513
// Takes numbers below 2^-126 for zeros.
inline void store_brain(bf16* p, V v) { _mm256_storeu_si256((__m256i*)p, (__m256i)_mm512_cvtneps_pbh((__m512)v)); }
#endif
inline V load_half(const f16* p) { return (V)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
inline void store_half(f16* p, V v) { _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph((__m512)v, 0)); }
inline float sum(V v) { return _mm512_reduce_add_ps((__m512)v); }
inline float largest(V v) { return _mm512_reduce_max_ps((__m512)v); }
inline V vmax(V a, V b) { return (V)_mm512_max_ps((__m512)a, (__m512)b); }
inline V permute(V v, I index) { return (V)_mm512_permutexvar_ps((__m512i)index, (__m512)v); }

inline __mmask16 first_lanes(int n) { return __mmask16((1u << n) - 1); }

template <int bytes>
I lanes_of(const uint8_t* p, int n = W);
template <>
inline I lanes_of<2>(const uint8_t* p, int n) {
  return (I)_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first_lanes(n), p));
}
template <>
inline I lanes_of<3>(const uint8_t* p, int n) {
  const __m512i spread = _mm512_setr_epi32(0, 1, 2, 2, 3, 4, 5, 5, 6, 7, 8, 8, 9, 10, 11, 11);
  const __m512i pick = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 2, -1, 3, 4, 5, -1, 6, 7, 8, -1, 9, 10, 11, -1));
  __m512i words = _mm512_maskz_loadu_epi32(first_lanes(n * 3 / 4), p);
  return (I)_mm512_shuffle_epi8(_mm512_permutexvar_epi32(spread, words), pick);
}
template <>
inline I lanes_of<4>(const uint8_t* p, int n) {
  return n == W ? (I)_mm512_loadu_si512(p) : (I)_mm512_maskz_loadu_epi32(first_lanes(n), p);
}

// Eighty bytes as two registers: each quarter of `from` holds bytes 20 q .. 20 q + 15, of `on` those 4 bytes later.
struct Fives {
  __m512i from, on;
};
inline Fives fives(const uint8_t* p, int n) {
  const __m512i from = _mm512_setr_epi32(0, 1, 2, 3, 5, 6, 7, 8, 10, 11, 12, 13, 15, 16, 17, 18);
  const __m512i on = _mm512_setr_epi32(1, 2, 3, 4, 6, 7, 8, 9, 11, 12, 13, 14, 16, 17, 18, 19);
  uint32_t mask = (1u << n * 5 / 4) - 1;
  __m512i low = _mm512_maskz_loadu_epi32(__mmask16(mask), p);
  __m512i high = _mm512_maskz_loadu_epi32(__mmask16(mask >> 16), p + 64);
  return {_mm512_permutex2var_epi32(low, from, high), _mm512_permutex2var_epi32(low, on, high)};
}
inline I picked(Fives f, __m128i first, __m128i fourth) {
  return (I)_mm512_or_si512(_mm512_shuffle_epi8(f.from, _mm512_broadcast_i32x4(first)),
                            _mm512_shuffle_epi8(f.on, _mm512_broadcast_i32x4(fourth)));
}
template <>
inline I lanes_of<5>(const uint8_t* p, int n) {
  return picked(fives(p, n), _mm_setr_epi8(0, 1, 2, 3, 5, 6, 7, 8, 10, 11, 12, 13, -1, -1, -1, -1),
                _mm_setr_epi8(-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 11, 12, 13, 14));
}
inline I upper_lanes(const uint8_t* p, int n = W) {
  return picked(fives(p, n), _mm_setr_epi8(1, 2, 3, 4, 6, 7, 8, 9, 11, 12, 13, 14, -1, -1, -1, -1),
                _mm_setr_epi8(-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 12, 13, 14, 15));
}

inline __m512 count_from(int first, int mask) {
  alignas(64) float t[16];
  for (int i = 0; i < 16; i++) t[i] = float((first + i) & mask);
  return _mm512_load_ps(t);
}
template <int bits, int shift>
inline V code_value(I word) {
  __m512i code = shift ? _mm512_srli_epi32((__m512i)word, shift) : (__m512i)word;
  // The look-up takes the index's low bits; a table that repeats makes masking the others needless.
  if constexpr (bits <= 4) return (V)_mm512_permutexvar_ps(code, count_from(0, (1 << bits) - 1));
  if constexpr (bits == 5) return (V)_mm512_permutex2var_ps(count_from(0, 31), code, count_from(16, 31));
  if (bits + shift < 32) code = _mm512_and_si512(code, _mm512_set1_epi32((1 << bits) - 1));
  return (V)_mm512_cvtepi32_ps(code);
}
template <int shift>
inline V fp4_value(I word) {
  const __m512 values = _mm512_setr_ps(0, .5f, 1, 1.5f, 2, 3, 4, 6, -0.f, -.5f, -1, -1.5f, -2, -3, -4, -6);
  __m512i code = shift ? _mm512_srli_epi32((__m512i)word, shift) : (__m512i)word;
  return (V)_mm512_permutexvar_ps(code, values);
}

}  // namespace
