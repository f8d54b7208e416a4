// Recurrences over positions, one after another, the state staying in the cache: heads and columns are what runs at once.
#pragma once
#include <type_traits>

#include "pool.h"
#include "simd.h"

namespace {

inline V load_up_to(const float* p, int n) { return n >= W ? load(p) : load_n(p, n); }
inline void store_up_to(float* p, V v, int n) {
  if (n >= W) store(p, v);
  else store_n(p, v, n);
}

// One position for R rows of a head's state, `from` before it and `state` after it: h = decay h + x b, y = h . c
template <int R>
inline void state_space_rows(const float* from, float* state, float decay, float dt, const float* x, const float* b, const float* c, int N,
                             float* y) {
  V total[R] = {};
  for (int n = 0; n < N; n += W) {
    const V bn = load_up_to(b + n, N - n), cn = load_up_to(c + n, N - n);
    UNROLL for (int r = 0; r < R; r++) {
      float* at = state + r * N + n;
      const V h = fma(splat(dt * x[r]), bn, load_up_to(from + r * N + n, N - n) * decay);
      store_up_to(at, h, N - n);
      total[r] = fma(h, cn, total[r]);
    }
  }
  UNROLL for (int r = 0; r < R; r++) y[r] = sum(total[r]);
}

void causal_conv(const Convolution& v) {
  by_type(v.type, [&]<class T>(T*) {
    const int64_t rows = int64_t(v.B) * v.L;
    const auto some_rows = [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; row++) {
        const T* x = (const T*)v.x + (row + row / v.L * (v.width - 1)) * v.C;
        T* out = (T*)v.out + row * v.C;
        for (int c = 0; c < v.C; c += W) {
          const int n = lesser(W, v.C - c);
          V total = v.bias ? load_up_to(v.bias + c, n) : V{};
          for (int k = 0; k < v.width; k++) {
            const T* from = x + int64_t(k) * v.C + c;
            total = fma(n == W ? load(from) : load_n(from, n), load_up_to(v.weight + k * v.C + c, n), total);
          }
          if (n == W) store(out + c, total);
          else store_n(out + c, total, n);
        }
      }
    };
    if (rows * v.C < 16384) return some_rows(0, rows);
    const int parts = int(lesser(rows, int64_t(4 * pool_size())));
    parallel_for(parts, [&](int i) { some_rows(rows * i / parts, rows * (i + 1) / parts); });
  });
}

// A task is a few channels, all positions through: their states stay in the first cache.
void selective_scan(const SelectiveScan& s) {
  constexpr int CHANNELS = 64;
  const int parts = (s.C + CHANNELS - 1) / CHANNELS;
  parallel_for(s.B * parts, [&](int task) {
    const int batch = task / parts, first = task % parts * CHANNELS, end = lesser(s.C, first + CHANNELS);
    const size_t from = (size_t(batch) * s.C + first) * s.N;
    float* state = s.last + from - size_t(first) * s.N;
    __builtin_memcpy(s.last + from, s.state + from, sizeof(float) * (end - first) * s.N);
    for (int l = 0; l < s.L; l++) {
      const size_t at = size_t(batch) * s.L + l;
      const float *b = s.b + at * s.N, *c = s.c + at * s.N;
      for (int i = first; i < end; i++) {
        const float dt = s.dt[at * s.C + i], push = dt * s.x[at * s.C + i];
        float* h = state + size_t(i) * s.N;
        const float* a = s.a + size_t(i) * s.N;
        V total{};
        for (int n = 0; n < s.N; n += W) {
          const int left = s.N - n;
          const V now = fma(vexp(load_up_to(a + n, left) * dt), load_up_to(h + n, left), load_up_to(b + n, left) * push);
          store_up_to(h + n, now, left);
          total = fma(now, load_up_to(c + n, left), total);
        }
        s.y[at * s.C + i] = sum(total);
      }
    }
  });
}

void state_space(const StateSpace& s) {
  const size_t size = size_t(s.P) * s.N;
  parallel_for(s.B * s.H, [&](int task) {
    const int batch = task / s.H, head = task % s.H, group = head / (s.H / s.G);
    float* state = s.last + task * size;
    for (int l = 0; l < s.L; l++) {
      const float* from = l ? state : s.state + task * size;
      const size_t at = size_t(batch) * s.L + l;
      const float dt = s.dt[at * s.H + head], decay = vexp(splat(dt * s.a[head]))[0];
      const float *x = s.x + at * s.x_row + head * s.P, *b = s.b + at * s.bc_row + group * s.N;
      const float* c = s.c + at * s.bc_row + group * s.N;
      float* y = s.y + (at * s.H + head) * s.P;
      int p = 0;
      const auto rows = [&]<int R>(std::integral_constant<int, R>) {
        const size_t row = size_t(p) * s.N;
        state_space_rows<R>(from + row, state + row, decay, dt, x + p, b, c, s.N, y + p);
      };
      for (; p + 4 <= s.P; p += 4) rows(std::integral_constant<int, 4>());
      for (; p < s.P; p++) rows(std::integral_constant<int, 1>());
      if (s.d) for (p = 0; p < s.P; p++) y[p] += s.d[head] * x[p];
    }
  });
}

// One position for `width` columns of a head's state: what the memory says of k is corrected towards v, then q asks.
inline void delta_columns(float* state, int stride, int K, int width, float decay, float beta, const float* k,
                          const float* q, const float* v, float* y) {
  for (int n = 0; n < width; n += 2 * W) {
    const int left = width - n, second = left - W;
    V said[2] = {}, asked[2] = {};
    for (int i = 0; i < K; i++) {
      const float* row = state + size_t(i) * stride + n;
      said[0] = fma(load_up_to(row, left), splat(k[i]), said[0]);
      if (second > 0) said[1] = fma(load_up_to(row + W, second), splat(k[i]), said[1]);
    }
    V written[2] = {(load_up_to(v + n, left) - said[0] * decay) * beta, V{}};
    if (second > 0) written[1] = (load_up_to(v + n + W, second) - said[1] * decay) * beta;
    for (int i = 0; i < K; i++) {
      float* row = state + size_t(i) * stride + n;
      const V one = splat(k[i]), query = splat(q[i]);
      V h = fma(written[0], one, load_up_to(row, left) * decay);
      store_up_to(row, h, left);
      asked[0] = fma(h, query, asked[0]);
      if (second <= 0) continue;
      h = fma(written[1], one, load_up_to(row + W, second) * decay);
      store_up_to(row + W, h, second);
      asked[1] = fma(h, query, asked[1]);
    }
    store_up_to(y + n, asked[0], left);
    if (second > 0) store_up_to(y + n + W, asked[1], second);
  }
}

void delta_rule(const DeltaRule& d) {
  // Columns don't meet: a part of them, all positions through, stays in the first cache.
  constexpr int COLUMNS = 4 * W;
  const int parts = (d.V + COLUMNS - 1) / COLUMNS;
  const size_t size = size_t(d.K) * d.V;
  parallel_for(d.B * d.H * parts, [&](int task) {
    const int which = task / parts, n = task % parts * COLUMNS, width = lesser(COLUMNS, d.V - n);
    const int batch = which / d.H, head = which % d.H;
    float* state = d.last + which * size + n;
    for (int i = 0; i < d.K; i++)
      __builtin_memcpy(state + size_t(i) * d.V, d.state + which * size + size_t(i) * d.V + n, sizeof(float) * width);
    for (int l = 0; l < d.L; l++) {
      const size_t at = (size_t(batch) * d.L + l) * d.H + head;
      const float decay = vexp(splat(d.g[at]))[0];
      delta_columns(state, d.V, d.K, width, decay, d.beta[at], d.k + at * d.K, d.q + at * d.K, d.v + at * d.V + n,
                    d.y + at * d.V + n);
    }
  });
}

}  // namespace
