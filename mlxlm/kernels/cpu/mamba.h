// What a Mamba 2 mixer does between its projections, for a few positions: everything in float32, its memory in place.
#pragma once
#include "pointwise.h"
#include "recurrent.h"

namespace {

template <class T>
inline V load_some(const T* p, int n) { return n >= W ? load(p) : load_n(p, n); }
template <class T>
inline void store_some(T* p, V v, int n) {
  if (n >= W) store(p, v);
  else store_n(p, v, n);
}

// The convolution's channels begin .. end of all positions, opened, to s.mixed; then its memory moves on.
template <class T>
inline void convolve_channels(const MambaStep& s, int begin, int end) {
  const int C = s.channels(), keep = s.width - 1, wide = s.row();
  for (int b = 0; b < s.B; b++) {
    T* past = (T*)s.past + size_t(b) * keep * C;
    const T* fresh = (const T*)s.rows + size_t(b) * s.L * wide + s.inner();
    const auto at = [&](int row) { return row < keep ? past + size_t(row) * C : fresh + size_t(row - keep) * wide; };
    for (int c = begin; c < end; c += W) {
      const int n = lesser(W, end - c);
      for (int l = 0; l < s.L; l++) {
        V total = s.conv_bias ? load_some(s.conv_bias + c, n) : V{};
        for (int k = 0; k < s.width; k++)
          total = fma(load_some(at(l + k) + c, n), load_some(s.conv + size_t(k) * C + c, n), total);
        store_some(s.mixed + (size_t(b) * s.L + l) * C + c, opened(total, Gate::silu), n);
      }
      for (int row = 0; row < keep; row++) store_some(past + size_t(row) * C + c, load_some(at(s.L + row) + c, n), n);
    }
  }
}

// Position `row`, norm's group `group`: y opened by its gate, and normed, to out.
template <class T>
inline void gate_and_norm(const MambaStep& s, int64_t row, int group) {
  const int D = s.inner() / greater(1, s.norm_groups);
  const T* gate = (const T*)s.rows + row * s.row() + group * D;
  float* y = s.y + row * s.inner() + group * D;
  T* out = (T*)s.out + row * s.inner() + group * D;
  const float* weight = s.norm ? s.norm + group * D : nullptr;
  V squares{};
  for (int i = 0; i < D; i += W) {
    const int n = lesser(W, D - i);
    const V v = load_some(y + i, n) * opened(load_some(gate + i, n), Gate::silu);
    store_some(y + i, v, n);
    squares = fma(v, v, squares);
  }
  const float inverse = s.norm_groups ? 1.f / __builtin_sqrtf(sum(squares) / float(D) + s.eps) : 1.f;
  for (int i = 0; i < D; i += W) {
    const int n = lesser(W, D - i);
    V v = load_some(y + i, n) * inverse;
    if (weight) v *= load_some(weight + i, n);
    store_some(out + i, v, n);
  }
}

void mamba_step(const MambaStep& s) {
  by_type(s.type, [&]<class T>(T*) {
    const int C = s.channels(), blocks = (C + W - 1) / W, groups = greater(1, s.norm_groups);
    in_parts(blocks, int64_t(W) * s.width * s.B * s.L, [&](int64_t begin, int64_t end) {
      convolve_channels<T>(s, int(begin) * W, lesser(C, int(end) * W));
    });
    const float *x = s.mixed, *b = x + s.inner(), *c = b + s.G * s.N;
    state_space({x, s.dt, s.a, b, c, s.state, s.y, s.state, s.B, s.L, s.H, s.G, s.P, s.N, C, C, s.d});
    in_parts(int64_t(s.B) * s.L * groups, 4 * s.inner() / groups, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) gate_and_norm<T>(s, i / groups, int(i % groups));
    });
  });
}

}  // namespace
