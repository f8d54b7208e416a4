// Quantized weights to numbers, a block at a time, in the order that needs no shuffling: see Codes.
#pragma once
#include "pool.h"
#include "simd.h"

namespace {

// A block is `per` weights for each of W lanes. unpack() gives vector j the weights j, per + j, 2 per + j, ...: lane i
// holds weight per * i + j, so that a lane stays within a group. Whatever is multiplied with the weights is put in
// the same order, once for each matmul, instead of the weights into theirs each time.
template <Format format, int bits>
struct Codes {
  static constexpr int per = bits == 6 || bits == 8 ? 4 : 8;
  static constexpr int lane_bytes = per * bits / 8;
  static constexpr int block = per * W;
  static constexpr int block_bytes = lane_bytes * W;

  template <int j>
  static inline V one(I low, I upper) {
    if constexpr (format == Format::fp4) return fp4_value<4 * j>(low);
    else if constexpr (format == Format::fp8) return fp8_value<8 * j>(low);
    else if constexpr (bits * j + bits > 32) return code_value<bits, bits * j - 8>(upper);
    else return code_value<bits, bits * j>(low);
  }

  template <int shift>
  static inline V fp8_value(I word) {
    // The exponent's bias is 7 instead of 127; the multiplication also sets subnormals right.
    U code = (U)word >> shift;
    V magnitude = (V)((code & 0x7f) << 20) * 0x1p120f;
    return (V)((U)magnitude | (code & 0x80) << 24);
  }

  static inline void spread(I low, I upper, V* out) {
    out[0] = one<0>(low, upper);
    out[1] = one<1>(low, upper);
    out[2] = one<2>(low, upper);
    out[3] = one<3>(low, upper);
    if constexpr (per == 8) {
      out[4] = one<4>(low, upper);
      out[5] = one<5>(low, upper);
      out[6] = one<6>(low, upper);
      out[7] = one<7>(low, upper);
    }
  }

  static inline void unpack(const uint8_t* p, V* out) {
    I upper{};
    if constexpr (bits == 5) upper = upper_lanes(p);
    spread(lanes_of<lane_bytes>(p), upper, out);
  }
  // The first `lanes` lanes only: reads nothing past them.
  static inline void unpack(const uint8_t* p, int lanes, V* out) {
    I upper{};
    if constexpr (bits == 5) upper = upper_lanes(p, lanes);
    spread(lanes_of<lane_bytes>(p, lanes), upper, out);
  }
};

inline int blocks_of(int K, int block) { return (K + block - 1) / block; }

// Puts K values in the order of the blocks; the last block's missing lanes become 0.
template <int per, class T>
inline void in_block_order(const T* x, int K, float* out) {
  constexpr int block = per * W;
  for (int b = 0; b < blocks_of(K, block); b++, x += block, out += block) {
    int lanes = lesser(W, (K - b * block) / per);
    if (lanes < W) for (int i = 0; i < block; i++) out[i] = 0;
    for (int j = 0; j < per; j++)
      for (int i = 0; i < lanes; i++) out[j * W + i] = value(x[i * per + j]);
  }
}

// ------------------------------------------------------------------------------------------------- scales

inline float e8m0_value(uint8_t e) {
  uint32_t bits = e == 0 ? 0x00400000 : e == 255 ? 0x7fc00000 : uint32_t(e) << 23;  // 2^-127 is subnormal
  float f;
  __builtin_memcpy(&f, &bits, 4);
  return f;
}
inline float e4m3_value(uint8_t c) {
  uint32_t bits = uint32_t(c & 0x7f) << 20;
  float f;
  __builtin_memcpy(&f, &bits, 4);
  f *= 0x1p120f;
  return c & 0x80 ? -f : f;
}

template <class T>
inline void widen(const T* from, int n, float* to) {
  int i = 0;
  for (; i + W <= n; i += W) store(to + i, load(from + i));
  if (i < n) store_n(to + i, load_n(from + i, n - i), n - i);
}

// n scales (or biases), from the given one on, as f32.
inline void read_scales(ScaleType type, const void* all, int64_t first, int n, float* out) {
  switch (type) {
    case ScaleType::f32: return widen((const float*)all + first, n, out);
    case ScaleType::bf16: return widen((const bf16*)all + first, n, out);
    case ScaleType::f16: return widen((const f16*)all + first, n, out);
    case ScaleType::e8m0:
      for (int i = 0; i < n; i++) out[i] = e8m0_value(((const uint8_t*)all)[first + i]);
      return;
    case ScaleType::e4m3:
      for (int i = 0; i < n; i++) out[i] = e4m3_value(((const uint8_t*)all)[first + i]);
  }
}

// Which of a row's scales each lane of a block needs: scales[first(b)] onwards, permuted by `index`. The last block may
// be short: its unused lanes take the last group's scale, lest another row's infinity meets their zeros.
struct LaneScales {
  I index, last_index;
  int shift, block;
#if MLXLM_LEVEL == 513
  I upper_index, last_upper_index;  // to the upper halves of the lanes
#endif

  LaneScales(const QuantizedMatrix& m, int per) : block(per * W) {
    shift = __builtin_ctz(m.group);
    const int blocks = blocks_of(m.K, block), left = m.groups() - int(int64_t(blocks - 1) * block >> shift);
    for (int i = 0; i < W; i++) {
      index[i] = per * i / m.group;
      last_index[i] = lesser(index[i], left - 1);
    }
#if MLXLM_LEVEL == 513
    upper_index = index << 16, last_upper_index = last_index << 16;
#endif
  }
  // `scales` must be readable for W values past the last group.
  template <class S>
  inline V of(const S* scales, int b) const { return permute(load(scales + (int64_t(b) * block >> shift)), index); }
  template <class S>
  inline V of_last(const S* scales, int b) const {
    return permute(load(scales + (int64_t(b) * block >> shift)), last_index);
  }
#if MLXLM_LEVEL == 513
  // The upper half of a float is its bf16 number: one look-up widens and places them.
  static inline V placed(const bf16* scales, I upper) {
    const __m512i some = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i*)scales));
    return (V)_mm512_maskz_permutexvar_epi16(0xaaaaaaaa, (__m512i)upper, some);
  }
  inline V of(const bf16* scales, int b) const { return placed(scales + (int64_t(b) * block >> shift), upper_index); }
  inline V of_last(const bf16* scales, int b) const {
    return placed(scales + (int64_t(b) * block >> shift), last_upper_index);
  }
#endif
};

// Room for a row's scales and what LaneScales reads past them.
inline int padded_groups(const QuantizedMatrix& m) { return round_up(m.groups(), W) + W; }

template <class F>
inline void by_format(const QuantizedMatrix& m, F&& f) {
  if (m.format == Format::fp4) return f(Codes<Format::fp4, 4>());
  if (m.format == Format::fp8) return f(Codes<Format::fp8, 8>());
  switch (m.bits) {
    case 2: return f(Codes<Format::affine, 2>());
    case 3: return f(Codes<Format::affine, 3>());
    case 4: return f(Codes<Format::affine, 4>());
    case 5: return f(Codes<Format::affine, 5>());
    case 6: return f(Codes<Format::affine, 6>());
    default: return f(Codes<Format::affine, 8>());
  }
}

}  // namespace
