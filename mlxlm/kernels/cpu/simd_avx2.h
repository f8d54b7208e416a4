// Eight lanes: AVX2, FMA and F16C.
#pragma once
#include <immintrin.h>

#include "types.h"

namespace {
using namespace mlxlm;

constexpr int W = 8;
typedef float V __attribute__((vector_size(32)));
typedef int32_t I __attribute__((vector_size(32)));
typedef uint16_t H __attribute__((vector_size(16)));

constexpr int ROWS = 6;  // rows of a matmul tile: 6 x 2 accumulators, 2 columns and a row fit 16 registers

inline float f16_value(uint16_t h) { return _cvtsh_ss(h); }
inline uint16_t f16_bits(float x) { return _cvtss_sh(x, 0); }
inline V load_brain(const bf16* p) {
  return (V)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16);
}
inline V load_half(const f16* p) { return (V)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)); }
inline void store_half(f16* p, V v) { _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph((__m256)v, 0)); }
inline float sum(V v) {
  __m128 a = _mm_add_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
  a = _mm_add_ps(a, _mm_movehl_ps(a, a));
  return _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a)));
}
inline float largest(V v) {
  __m128 a = _mm_max_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
  a = _mm_max_ps(a, _mm_movehl_ps(a, a));
  return _mm_cvtss_f32(_mm_max_ss(a, _mm_movehdup_ps(a)));
}
inline V vmax(V a, V b) { return (V)_mm256_max_ps((__m256)a, (__m256)b); }
inline V permute(V v, I index) { return (V)_mm256_permutevar8x32_ps((__m256)v, (__m256i)index); }

inline __m256i halves(const uint8_t* low, const uint8_t* high) {
  return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i*)low)),
                                 _mm_loadu_si128((const __m128i*)high), 1);
}

template <int bytes>
I lanes_of(const uint8_t* p);
template <>
inline I lanes_of<2>(const uint8_t* p) { return (I)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)); }
template <>
inline I lanes_of<3>(const uint8_t* p) {
  // The upper half is read 4 bytes early, so that nothing past the 24 bytes is touched.
  const __m256i pick = _mm256_setr_epi8(0, 1, 2, -1, 3, 4, 5, -1, 6, 7, 8, -1, 9, 10, 11, -1,  //
                                        4, 5, 6, -1, 7, 8, 9, -1, 10, 11, 12, -1, 13, 14, 15, -1);
  return (I)_mm256_shuffle_epi8(halves(p, p + 8), pick);
}
template <>
inline I lanes_of<4>(const uint8_t* p) { return (I)_mm256_loadu_si256((const __m256i*)p); }
template <>
inline I lanes_of<5>(const uint8_t* p) {
  // Four lanes take 20 bytes: the fourth comes from a second read, 4 bytes on.
  const __m256i first = _mm256_setr_epi8(0, 1, 2, 3, 5, 6, 7, 8, 10, 11, 12, 13, -1, -1, -1, -1,  //
                                         0, 1, 2, 3, 5, 6, 7, 8, 10, 11, 12, 13, -1, -1, -1, -1);
  const __m256i fourth = _mm256_setr_epi8(-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 11, 12, 13, 14,  //
                                          -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 11, 12, 13, 14);
  return (I)_mm256_or_si256(_mm256_shuffle_epi8(halves(p, p + 20), first),
                            _mm256_shuffle_epi8(halves(p + 4, p + 24), fourth));
}
inline I upper_lanes(const uint8_t* p) {
  const __m256i first = _mm256_setr_epi8(1, 2, 3, 4, 6, 7, 8, 9, 11, 12, 13, 14, -1, -1, -1, -1,  //
                                         1, 2, 3, 4, 6, 7, 8, 9, 11, 12, 13, 14, -1, -1, -1, -1);
  const __m256i fourth = _mm256_setr_epi8(-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 12, 13, 14, 15,  //
                                          -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 12, 13, 14, 15);
  return (I)_mm256_or_si256(_mm256_shuffle_epi8(halves(p, p + 20), first),
                            _mm256_shuffle_epi8(halves(p + 4, p + 24), fourth));
}

// A part of a block at a row's end: read through a buffer, so that nothing past the row is touched.
template <int bytes>
inline I lanes_of(const uint8_t* p, int n) {
  alignas(32) uint8_t whole[bytes * W] = {};
  __builtin_memcpy(whole, p, size_t(bytes) * n);
  return lanes_of<bytes>(whole);
}
inline I upper_lanes(const uint8_t* p, int n) {
  alignas(32) uint8_t whole[5 * W] = {};
  __builtin_memcpy(whole, p, size_t(5) * n);
  return upper_lanes(whole);
}

template <int bits, int shift>
inline V code_value(I word) {
  __m256i code = shift ? _mm256_srli_epi32((__m256i)word, shift) : (__m256i)word;
  if (bits + shift < 32) code = _mm256_and_si256(code, _mm256_set1_epi32((1 << bits) - 1));
  return (V)_mm256_cvtepi32_ps(code);
}
template <int shift>
inline V fp4_value(I word) {
  const __m256 magnitudes = _mm256_setr_ps(0, .5f, 1, 1.5f, 2, 3, 4, 6);
  __m256i code = shift ? _mm256_srli_epi32((__m256i)word, shift) : (__m256i)word;
  __m256i sign = _mm256_and_si256(_mm256_slli_epi32(code, 28), _mm256_set1_epi32(int(0x80000000)));
  return (V)_mm256_xor_ps(_mm256_permutevar8x32_ps(magnitudes, code), _mm256_castsi256_ps(sign));
}

}  // namespace
