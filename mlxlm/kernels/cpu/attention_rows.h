// Rows of keys or values: in place, or unpacked from a few bits as they are needed.
#pragma once
#include <type_traits>
#include <utility>

#include "codes.h"

namespace {

constexpr int UNPACKED = 64;  // rows that are unpacked at a time

// `count` rows, `stride` numbers apart.
template <class T>
struct RowsOf {
  const T* data;
  int64_t stride;
  int count;
  // The last row stands for those past the end.
  const T* row(int s) const { return data + lesser(s, count - 1) * stride; }
};

// The rows of one head as they lie in memory.
template <class T>
struct InPlace {
  using Number = T;
  const T* data;
  int64_t stride;

  static InPlace of(const Attention&, const void* data, const int64_t* stride, const GroupScales&, int b, int h, int) {
    return {(const T*)data + b * stride[0] + h * stride[1], stride[2]};
  }
  // f(rows, first) for rows begin .. end, a part at a time where they are unpacked; first counts from `begin`.
  template <class F>
  void each(int begin, int end, F&& f) const { f(RowsOf<T>{data + begin * stride, stride, end - begin}, 0); }
  // The same rows as f32, in place where they are that already.
  RowsOf<float> floats(int begin, int count, int D, float* buffer) const {
    if constexpr (std::is_same_v<T, float>) {
      return {data + begin * stride, stride, count};
    } else {
      for (int s = 0; s < count; s++) widen(data + (begin + s) * stride, D, buffer + s * D);
      return {buffer, D, count};
    }
  }
};

// Codes of 4 or 8 bits by affine groups; S is the scales' type. Rows have whole words of codes and whole groups.
template <int bits, class S>
struct Unpacked {
  using Number = float;
  const uint8_t* codes;
  const S *scales, *biases;
  int64_t stride, scale_stride, bias_stride;
  int D, group;

  static Unpacked of(const Attention& a, const void* data, const int64_t* stride, const GroupScales& g, int b, int h, int D) {
    const auto head = [&](const void* from, const int64_t* by) { return (const S*)from + b * by[0] + h * by[1]; };
    return {(const uint8_t*)data + b * stride[0] + h * stride[1], head(g.scales, g.stride), head(g.biases, g.bias_stride),
            stride[2], g.stride[2], g.bias_stride[2], D, a.group};
  }
  template <int... lane>
  static V numbers(const uint8_t* p, std::integer_sequence<int, lane...>) {
    U words{};
    __builtin_memcpy(&words, p, W * bits / 8);
    words = __builtin_shufflevector(words, words, (lane * bits / 32)...) >> U{(uint32_t(lane * bits % 32))...};
    return __builtin_convertvector((I)(words & ((1u << bits) - 1)), V);
  }
  void row(int64_t s, float* out) const {
    const uint8_t* p = codes + s * stride;
    for (int g = 0; g < D / group; g++) {
      const V scale = splat(value(scales[s * scale_stride + g])), bias = splat(value(biases[s * bias_stride + g]));
      for (int d = 0; d < group; d += W, p += W * bits / 8)
        store(out + g * group + d, fma(numbers(p, std::make_integer_sequence<int, W>()), scale, bias));
    }
  }
  RowsOf<float> floats(int begin, int count, int, float* buffer) const {
    for (int s = 0; s < count; s++) row(begin + s, buffer + s * D);
    return {buffer, D, count};
  }
  template <class F>
  void each(int begin, int end, F&& f) const {
    float* buffer = (float*)scratch(kRows, sizeof(float) * UNPACKED * D);
    for (int s = begin; s < end; s += UNPACKED) f(floats(s, lesser(UNPACKED, end - s), D, buffer), s - begin);
  }
};

// f(type of rows) for the keys and values of an operation over T.
template <class T, class F>
inline void by_rows(const Attention& a, F&& f) {
  if (!a.bits) f((InPlace<T>*)nullptr);
  else if (a.bits == 4) f((Unpacked<4, T>*)nullptr);
  else f((Unpacked<8, T>*)nullptr);
}

}  // namespace
