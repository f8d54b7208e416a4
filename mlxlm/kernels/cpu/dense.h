// Matmul with weights in a float type.
#pragma once
#include "tile.h"

namespace {

template <class T, int M, int R>
inline void dense_rows_times(const T* w, int64_t stride, int K, const float* x, float (&out)[R][M]) {
  V total[R][M] = {};
  int k = 0;
  for (; k + W <= K; k += W)
    UNROLL for (int r = 0; r < R; r++) {
      V weight = load(w + r * stride + k);
      UNROLL for (int m = 0; m < M; m++) total[r][m] = fma(weight, load(x + size_t(m) * K + k), total[r][m]);
    }
  UNROLL for (int r = 0; r < R; r++) {
    V weight = k < K ? load_n(w + r * stride + k, K - k) : V{};
    UNROLL for (int m = 0; m < M; m++) {
      V last = k < K ? load_n(x + size_t(m) * K + k, K - k) : V{};
      out[r][m] = sum(fma(weight, last, total[r][m]));
    }
  }
}

template <class T, int M>
inline void dense_times(const DenseMatrix& w, const MatmulRows& rows, int first) {
  constexpr int R = M == 1 ? 8 : M == 2 ? 4 : 2;
  float* x = (float*)scratch(kPanel, sizeof(float) * M * w.K);
  by_type(rows.type, [&]<class X>(X*) { widen((const X*)rows.x + size_t(first) * w.K, M * w.K, x); });
  const int step = round_up(greater(R, int(49152 / (sizeof(T) * w.K + 1))), R), tasks = (w.N + step - 1) / step;
  parallel_for(tasks, [&](int t) {
    const auto finish = [&](int n, int r, const float* sums) {
      for (int m = 0; m < M; m++) {
        float y = sums[m] + (rows.bias ? rows.bias[n + r] : 0.f);
        by_type(rows.type, [&]<class X>(X*) { put((X*)rows.out + size_t(first + m) * w.N + n + r, y); });
      }
    };
    int n = t * step, end = lesser(w.N, n + step);
    for (; n + R <= end; n += R) {
      float out[R][M];
      dense_rows_times<T, M, R>((const T*)w.data + n * w.stride, w.stride, w.K, x, out);
      for (int r = 0; r < R; r++) finish(n, r, out[r]);
    }
    for (; n < end; n++) {
      float out[1][M];
      dense_rows_times<T, M, 1>((const T*)w.data + n * w.stride, w.stride, w.K, x, out);
      finish(n, 0, out[0]);
    }
  });
}

template <class T>
struct DenseRows {
  const DenseMatrix& w;

  size_t extra() const { return 0; }

  void rows(int n, int k, int depth, float* buffer, const float** out) const {
    for (int r = 0; r < ROWS; r++) {
      const T* from = (const T*)w.data + lesser(n + r, w.N - 1) * w.stride + k;
      if constexpr (sizeof(T) == 4) {
        out[r] = (const float*)from;
      } else {
        widen(from, depth, buffer + r * DEPTH);
        out[r] = buffer + r * DEPTH;
      }
    }
  }
};

void dense_matmul(const DenseMatrix& w, const MatmulRows& rows) {
  by_type(w.type, [&]<class T>(T*) {
    if (rows.M > 4) return many_rows<0>(DenseRows<T>{w}, w.N, w.K, w.K, rows);
    switch (rows.M) {
      case 1: return dense_times<T, 1>(w, rows, 0);
      case 2: return dense_times<T, 2>(w, rows, 0);
      case 3: return dense_times<T, 3>(w, rows, 0);
      case 4: return dense_times<T, 4>(w, rows, 0);
    }
  });
}

}  // namespace
