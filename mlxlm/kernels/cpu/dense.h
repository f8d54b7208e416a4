// Matmul with weights in a float type.
#pragma once
#include "pairs.h"
#include "streams.h"
#include "tile.h"

namespace {

// How weights of type T meet activations: as floats, W at a time.
template <class T>
struct InFloats {
  using Weight = T;
  using Activation = float;
  static constexpr int step = W;
  static inline V add(const T* w, const float* x, V total) { return fma(load(w), load(x), total); }
  static inline V add(const T* w, const float* x, int n, V total) { return fma(load_n(w, n), load_n(x, n), total); }
};

#if MLXLM_LEVEL == 513
struct InPairs {
  using Weight = bf16;
  using Activation = bf16;
  static constexpr int step = 2 * W;
  static inline V add(const bf16* w, const bf16* x, V total) {
    return multiply_pairs(load_pairs(w), load_pairs(x), total);
  }
  static inline V add(const bf16* w, const bf16* x, int n, V total) {
    const __mmask32 some = (1u << n) - 1;
    return multiply_pairs((P)_mm512_maskz_loadu_epi16(some, w), (P)_mm512_maskz_loadu_epi16(some, x), total);
  }
};
#endif

// R rows of weights by M of activations, these K apart. Several sums for each result hide the instruction's latency.
template <class As, int M, int R>
inline void dense_rows_times(const typename As::Weight* w, int64_t stride, int K, const typename As::Activation* x,
                             float (&out)[R][M]) {
  constexpr int sums = M == 1 && R == 1 ? 4 : R == 1 ? 2 : 1, block = sums * As::step;
  V total[sums][R][M] = {};
  int k = 0;
  for (; k + block <= K; k += block)
    UNROLL for (int i = 0; i < sums; i++)
      UNROLL for (int r = 0; r < R; r++)
        UNROLL for (int m = 0; m < M; m++) {
          const int at = k + i * As::step;
          total[i][r][m] = As::add(w + r * stride + at, x + size_t(m) * K + at, total[i][r][m]);
        }
  for (; k < K; k += As::step)
    UNROLL for (int r = 0; r < R; r++)
      UNROLL for (int m = 0; m < M; m++) {
        const auto *weight = w + r * stride + k;
        const auto *value = x + size_t(m) * K + k;
        V& to = total[0][r][m];
        to = K - k < As::step ? As::add(weight, value, K - k, to) : As::add(weight, value, to);
      }
  UNROLL for (int r = 0; r < R; r++)
    UNROLL for (int m = 0; m < M; m++) {
      UNROLL for (int i = 1; i < sums; i++) total[0][r][m] += total[i][r][m];
      out[r][m] = sum(total[0][r][m]);
    }
}

template <class As, int M, int R>
inline void dense_times(const DenseMatrix& w, const MatmulRows& rows, const typename As::Activation* x) {
  const auto* weights = (const typename As::Weight*)w.data;
  const int step = round_up(rows_of_stream(sizeof(*weights) * w.K, w.N), R), tasks = (w.N + step - 1) / step;
  parallel_streams(tasks, [&](int t) {
    const auto finish = [&](int n, const float (&sums)[M]) {
      for (int m = 0; m < M; m++) {
        const float y = sums[m] + (rows.bias ? rows.bias[n] : 0.f);
        by_type(rows.type, [&]<class X>(X*) { put((X*)rows.out + size_t(m) * w.N + n, y); });
      }
    };
    int n = t * step, end = lesser(w.N, n + step);
    if constexpr (R > 1) for (; n + R <= end; n += R) {
      float out[R][M];
      dense_rows_times<As, M, R>(weights + n * w.stride, w.stride, w.K, x, out);
      for (int r = 0; r < R; r++) finish(n + r, out[r]);
    }
    for (; n < end; n++) {
      float out[1][M];
      dense_rows_times<As, M, 1>(weights + n * w.stride, w.stride, w.K, x, out);
      finish(n, out[0]);
    }
  });
}

// One row of weights at a time is what memory gives fastest, unless the activations then come from a farther cache.
template <class As, int M>
inline void dense_times(const DenseMatrix& w, const MatmulRows& rows, const typename As::Activation* x) {
  if (size_t(M) * w.K * sizeof(*x) <= 16384) dense_times<As, M, 1>(w, rows, x);
  else dense_times<As, M, 4>(w, rows, x);
}

template <class As>
inline void few_dense_rows(const DenseMatrix& w, const MatmulRows& rows, const typename As::Activation* x) {
  switch (rows.M) {
    case 1: return dense_times<As, 1>(w, rows, x);
    case 2: return dense_times<As, 2>(w, rows, x);
    case 3: return dense_times<As, 3>(w, rows, x);
    default: return dense_times<As, 4>(w, rows, x);
  }
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

#if MLXLM_LEVEL == 513
// In a panel and in a tile's weights a pair stands for a float of the same bits.
struct BrainPairs {
  static inline V add(V weight, V x, V total) { return multiply_pairs((P)weight, (P)x, total); }
  template <int per>
  static inline void pack(const MatmulRows& rows, int first, int pairs, const Panels& panels, int p) {
    pack_panel<per>((const float*)rows.x + size_t(first) * pairs, pairs, panels, p);
  }
};

struct DensePairs {
  const DenseMatrix& w;
  size_t extra() const { return 0; }
  void rows(int n, int k, int, float*, const float** out) const {
    for (int r = 0; r < ROWS; r++) out[r] = (const float*)((const bf16*)w.data + lesser(n + r, w.N - 1) * w.stride) + k;
  }
};
#endif

void dense_matmul(const DenseMatrix& w, const MatmulRows& rows) {
  const bool few = rows.M <= 4;
#if MLXLM_LEVEL == 513
  if (w.type == Dtype::bf16 && rows.type == Dtype::bf16) {
    if (few) return few_dense_rows<InPairs>(w, rows, (const bf16*)rows.x);
    if (w.K % 2 == 0) return many_rows<0, BrainPairs>(DensePairs{w}, w.N, w.K / 2, w.K / 2, rows);
  }
#endif
  by_type(w.type, [&]<class T>(T*) {
    if (!few) return many_rows<0>(DenseRows<T>{w}, w.N, w.K, w.K, rows);
    const float* x = (const float*)rows.x;
    if (rows.type != Dtype::f32) {
      float* wide = (float*)scratch(kPanel, sizeof(float) * rows.M * w.K);
      by_type(rows.type, [&]<class X>(X*) { widen((const X*)rows.x, rows.M * w.K, wide); });
      x = wide;
    }
    few_dense_rows<InFloats<T>>(w, rows, x);
  });
}

}  // namespace
