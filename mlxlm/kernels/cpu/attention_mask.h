// Masks as numbers to add to scores, and the softmax that both forms of attention share.
#pragma once
#include "pool.h"
#include "simd.h"

namespace {

// What a boolean mask makes of a score. Not -infinity: a row with nothing to see is then an average, as it is in MLX.
constexpr float HIDDEN = -3.4028235e38f;

// The last key, plus one, that query position l may see.
inline int visible(const Attention& a, int l) { return a.mask.kind == Mask::causal ? a.S - a.L + l + 1 : a.S; }

// The score of query (b, h, l) and key s under an array mask.
inline float masked(const Attention& a, float score, int b, int h, int l, int s) {
  const Mask& m = a.mask;
  const int64_t at = b * m.stride[0] + h * m.stride[1] + l * m.stride[2] + s * m.stride[3];
  if (m.kind == Mask::boolean) return ((const uint8_t*)m.data)[at] ? score : HIDDEN;
  if (m.type == Dtype::f32) return score + ((const float*)m.data)[at];
  if (m.type == Dtype::bf16) return score + value(((const bf16*)m.data)[at]);
  return score + value(((const f16*)m.data)[at]);
}

inline bool has_array(const Attention& a) { return a.mask.kind >= Mask::boolean; }

}  // namespace
