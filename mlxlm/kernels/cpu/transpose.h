// Square transposes in registers: how rows become lanes, and lanes rows again.
#pragma once
#include <utility>

#include "simd.h"

namespace {

// One step of the butterfly: swaps what lies off the diagonal in each square of 2 * step lanes by 2 * step vectors.
template <int step, int... lane>
inline void exchange(V& a, V& b, std::integer_sequence<int, lane...>) {
  const V first = __builtin_shufflevector(a, b, (lane & step ? W + lane - step : lane)...);
  b = __builtin_shufflevector(a, b, (lane & step ? W + lane : lane + step)...);
  a = first;
}

template <int step>
inline void exchange_all(V* v) {
  if constexpr (step < W) {
    UNROLL for (int i = 0; i < W; i++)
      if (!(i & step)) exchange<step>(v[i], v[i + step], std::make_integer_sequence<int, W>());
    exchange_all<2 * step>(v);
  }
}

// v[i][j] becomes v[j][i], for W vectors.
inline void transpose(V* v) { exchange_all<1>(v); }

}  // namespace
