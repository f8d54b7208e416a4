// Four lanes in the compiler's own vector types: the baseline that every processor runs.
#pragma once
#include "types.h"

namespace {
using namespace mlxlm;

constexpr int W = 4;
typedef float V __attribute__((vector_size(16)));
typedef int32_t I __attribute__((vector_size(16)));
typedef uint16_t H __attribute__((vector_size(8)));

constexpr int ROWS = 4;  // rows of a matmul tile: 4 x 2 accumulators fit 16 registers

inline float f16_value(uint16_t h) {
  uint32_t bits = uint32_t(h & 0x7fff) << 13, out;
  float magnitude;
  __builtin_memcpy(&magnitude, &bits, 4);
  magnitude *= 0x1p112f;
  __builtin_memcpy(&out, &magnitude, 4);
  if ((h & 0x7c00) == 0x7c00) out |= 0x7f800000;
  out |= uint32_t(h & 0x8000) << 16;
  __builtin_memcpy(&magnitude, &out, 4);
  return magnitude;
}

inline uint16_t f16_bits(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  uint16_t sign = uint16_t(bits >> 16 & 0x8000);
  bits &= 0x7fffffff;
  if (bits > 0x7f800000) return sign | 0x7e00;
  if (bits >= 0x477ff000) return sign | 0x7c00;  // 65520 and more round to infinity
  if (bits < 0x38800000) {                       // subnormal: adding 0.5 leaves the rounded mantissa at the bottom
    float y;
    __builtin_memcpy(&y, &bits, 4);
    y += 0.5f;
    __builtin_memcpy(&bits, &y, 4);
    return sign | uint16_t(bits - 0x3f000000);
  }
  return sign | uint16_t((bits - 0x38000000 + 0xfff + (bits >> 13 & 1)) >> 13);
}

inline V load_brain(const bf16* p) {
  H h;
  __builtin_memcpy(&h, p, sizeof h);
  return (V)(__builtin_convertvector(h, I) << 16);
}
inline V load_half(const f16* p) { return V{f16_value(p[0].bits), f16_value(p[1].bits), f16_value(p[2].bits), f16_value(p[3].bits)}; }
inline void store_half(f16* p, V v) {
  for (int i = 0; i < W; i++) p[i].bits = f16_bits(v[i]);
}
inline float sum(V v) { return (v[0] + v[2]) + (v[1] + v[3]); }
inline float largest(V v) {
  float m = v[0];
  for (int i = 1; i < W; i++) m = v[i] > m ? v[i] : m;
  return m;
}
inline V vmax(V a, V b) { return a > b ? a : b; }
inline V permute(V v, I index) { return V{v[index[0]], v[index[1]], v[index[2]], v[index[3]]}; }

template <class T>
inline void copy_n(T* to, const T* from, int n) {
  for (int i = 0; i < n; i++) to[i] = from[i];
}

// One 32-bit lane for each `bytes` bytes from p on (the first four of five).
template <int bytes>
inline I lanes_of(const uint8_t* p, int n = W) {
  I out{};
  for (int i = 0; i < n; i++) {
    uint32_t lane = 0;
    __builtin_memcpy(&lane, p + i * bytes, bytes < 4 ? bytes : 4);
    out[i] = int32_t(lane);
  }
  return out;
}
// The last four of each five bytes.
inline I upper_lanes(const uint8_t* p, int n = W) {
  I out{};
  for (int i = 0; i < n; i++) {
    uint32_t lane;
    __builtin_memcpy(&lane, p + i * 5 + 1, 4);
    out[i] = int32_t(lane);
  }
  return out;
}

template <int bits, int shift>
inline V code_value(I word) {
  typedef uint32_t U __attribute__((vector_size(16)));
  return __builtin_convertvector((I)((U)word >> shift) & ((1 << bits) - 1), V);
}
template <int shift>
inline V fp4_value(I word) {
  static const float values[16] = {0, .5f, 1, 1.5f, 2, 3, 4, 6, -0.f, -.5f, -1, -1.5f, -2, -3, -4, -6};
  V out;
  for (int i = 0; i < W; i++) out[i] = values[uint32_t(word[i]) >> shift & 15];
  return out;
}

}  // namespace
