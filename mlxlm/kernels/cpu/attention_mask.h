// Masks as numbers to add to scores, and the softmax that both forms of attention share.
#pragma once
#include "pool.h"
#include "simd.h"

namespace {

// What a boolean mask makes of a score. Not -infinity: a row with nothing to see is then an average, as it is in MLX.
constexpr float HIDDEN = -3.4028235e38f;

// The last key, plus one, that query position l may see.
inline int visible(const Attention& a, int l) { return a.mask.kind == Mask::causal ? a.S - a.L + l + 1 : a.S; }

// Applies an array mask to `count` scores of query (b, h, l), for keys s on; the scores lie `apart` from each other.
inline void apply_mask(const Attention& a, int b, int h, int l, int s, int count, float* scores, int apart) {
  const Mask& m = a.mask;
  const int64_t at = b * m.stride[0] + h * m.stride[1] + l * m.stride[2] + s * m.stride[3], step = m.stride[3];
  if (m.kind == Mask::boolean) {
    const uint8_t* seen = (const uint8_t*)m.data + at;
    for (int i = 0; i < count; i++) scores[i * apart] = seen[i * step] ? scores[i * apart] : HIDDEN;
    return;
  }
  by_type(m.type, [&]<class T>(T*) {
    const T* more = (const T*)m.data + at;
    for (int i = 0; i < count; i++) scores[i * apart] += value(more[i * step]);
  });
}

// cap * tanh(score / cap) for `count` scores, to whole vectors.
inline void squash(float cap, float* scores, int count) {
  for (int i = 0; i < count; i += W) store(scores + i, cap * vtanh(load(scores + i) / cap));
}

inline bool has_array(const Attention& a) { return a.mask.kind >= Mask::boolean; }

}  // namespace
