// Quantized weights by a few rows of activations (decoding): each weight is read once, and multiplied as f32.
#pragma once
#include "codes.h"

namespace {

// The activations in block order, and their sum over each group, by which the biases count. x row m begins at
// m * length, sums row m at m * groups.
struct Activations {
  const float* x;
  const float* sums;
  int length, groups;
};

template <class C>
inline Activations prepare(const QuantizedMatrix& w, const MatmulRows& r, int first, int M) {
  int length = blocks_of(w.K, C::block) * C::block, groups = padded_groups(w);
  float* x = (float*)scratch(kPanel, sizeof(float) * M * (length + groups));
  float* sums = x + size_t(M) * length;
  by_type(r.type, [&]<class T>(T*) {
    const T* rows = (const T*)r.x + size_t(first) * w.K;
    for (int m = 0; m < M; m++) {
      const T* row = rows + size_t(m) * w.K;
      in_block_order<C::per>(row, w.K, x + size_t(m) * length);
      float* s = sums + size_t(m) * groups;
      for (int g = w.groups(); g < groups; g++) s[g] = 0;
      if (!w.biases) continue;
      for (int g = 0; g < w.groups(); g++) {
        V total{};
        for (int k = 0; k < w.group; k += W) total += load(row + size_t(g) * w.group + k);
        s[g] = sum(total);
      }
    }
  });
  return {x, sums, length, groups};
}

template <class C, int M>
inline void block_times(const V* codes, const float* x, int length, V scale, V (&total)[M]) {
  UNROLL for (int m = 0; m < M; m++) {
    const float* xm = x + size_t(m) * length;
    V even = codes[0] * load(xm), odd = codes[1] * load(xm + W);
    UNROLL for (int j = 2; j < C::per; j += 2) {
      even = fma(codes[j], load(xm + j * W), even);
      odd = fma(codes[j + 1], load(xm + (j + 1) * W), odd);
    }
    total[m] = fma(even + odd, scale, total[m]);
  }
}

// R rows of the matrix, from n on, by M rows of activations; out[r * M + m].
template <class C, int M, int R>
inline void rows_times(const QuantizedMatrix& w, const Activations& a, const LaneScales& lanes, int64_t n, float* buffer,
                       float* out) {
  const int G = w.groups(), padded = padded_groups(w);
  float* scales = buffer;
  V total[R][M] = {};
  UNROLL for (int r = 0; r < R; r++) {
    read_scales(w.scale_type, w.scales, (n + r) * G, G, scales + r * padded);
    if (!w.biases) continue;
    float* biases = buffer + R * padded;
    read_scales(w.scale_type, w.biases, (n + r) * G, G, biases);
    for (int g = 0; g < G; g += W)
      UNROLL for (int m = 0; m < M; m++) total[r][m] = fma(load(biases + g), load(a.sums + m * a.groups + g), total[r][m]);
  }
  const uint8_t* p = w.codes + size_t(n) * w.row_bytes();
  const size_t row = w.row_bytes();
  const int whole = w.K / C::block, lanes_left = w.K % C::block / C::per;
  V codes[C::per];
  for (int b = 0; b < whole; b++) {
    UNROLL for (int r = 0; r < R; r++) {
      C::unpack(p + r * row + size_t(b) * C::block_bytes, codes);
      block_times<C, M>(codes, a.x + size_t(b) * C::block, a.length, lanes.of(scales + r * padded, b), total[r]);
    }
  }
  if (lanes_left) {
    UNROLL for (int r = 0; r < R; r++) {
      C::unpack(p + r * row + size_t(whole) * C::block_bytes, lanes_left, codes);
      block_times<C, M>(codes, a.x + size_t(whole) * C::block, a.length, lanes.of(scales + r * padded, whole),
                        total[r]);
    }
  }
  UNROLL for (int r = 0; r < R; r++) UNROLL for (int m = 0; m < M; m++) out[r * M + m] = sum(total[r][m]);
}

inline void put_result(const MatmulRows& r, int N, int64_t m, int64_t n, float x) {
  if (r.bias) x += r.bias[n];
  by_type(r.type, [&]<class T>(T*) { put((T*)r.out + m * N + n, x); });
}

template <class C, int M>
inline void matrix_times(const QuantizedMatrix& w, const MatmulRows& rows, int first) {
  constexpr int R = M <= 2 ? 4 : 2;
  const Activations a = prepare<C>(w, rows, first, M);
  const LaneScales lanes(w.group, C::per);
  // A task is worth handing to a thread from some tens of kilobytes on.
  const int step = round_up(greater(R, int(49152 / w.row_bytes())), R), tasks = (w.N + step - 1) / step;
  const size_t buffer_size = sizeof(float) * padded_groups(w) * (R + 1);
  parallel_for(tasks, [&](int t) {
    float* buffer = (float*)scratch(kRows, buffer_size);
    __builtin_memset(buffer, 0, buffer_size);
    float out[R * M];
    int n = t * step, end = lesser(w.N, n + step);
    for (; n + R <= end; n += R) {
      rows_times<C, M, R>(w, a, lanes, n, buffer, out);
      for (int r = 0; r < R; r++) for (int m = 0; m < M; m++) put_result(rows, w.N, first + m, n + r, out[r * M + m]);
    }
    for (; n < end; n++) {
      rows_times<C, M, 1>(w, a, lanes, n, buffer, out);
      for (int m = 0; m < M; m++) put_result(rows, w.N, first + m, n, out[m]);
    }
  });
}

// All of `rows`, four at most at a time.
template <class C>
inline void few_rows(const QuantizedMatrix& w, const MatmulRows& rows) {
  for (int m = 0; m < rows.M;) {
    switch (rows.M - m) {
      case 1: matrix_times<C, 1>(w, rows, m), m += 1; break;
      case 2: matrix_times<C, 2>(w, rows, m), m += 2; break;
      case 3: matrix_times<C, 3>(w, rows, m), m += 3; break;
      default: matrix_times<C, 4>(w, rows, m), m += 4;
    }
  }
}

}  // namespace
