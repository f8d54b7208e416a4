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

// A part of the matrix's rows, its scales and biases widened.
struct Part {
  const uint8_t* codes;
  const float *scales, *biases;  // row after row; biases null unless affine
  int groups;
  size_t row_bytes;
};

// R rows of the part, from r on, by M rows of activations; out[m * stride + row].
template <class C, int M, int R>
inline void rows_times(const QuantizedMatrix& w, const Part& p, const Activations& a, const LaneScales& lanes, int first,
                       float* out, int stride) {
  const int G = p.groups, whole = w.K / C::block, lanes_left = w.K % C::block / C::per;
  const float *scales = p.scales + size_t(first) * G, *biases = p.biases ? p.biases + size_t(first) * G : nullptr;
  const uint8_t* from = p.codes + first * p.row_bytes;
  V total[R][M] = {};
  V codes[C::per];
  for (int b = 0; b < whole; b++) {
    UNROLL for (int r = 0; r < R; r++) {
      C::unpack(from + r * p.row_bytes + size_t(b) * C::block_bytes, codes);
      block_times<C, M>(codes, a.x + size_t(b) * C::block, a.length, lanes.of(scales + r * G, b), total[r]);
    }
  }
  if (lanes_left) {
    UNROLL for (int r = 0; r < R; r++) {
      C::unpack(from + r * p.row_bytes + size_t(whole) * C::block_bytes, lanes_left, codes);
      block_times<C, M>(codes, a.x + size_t(whole) * C::block, a.length, lanes.of_last(scales + r * G, whole), total[r]);
    }
  }
  if (p.biases) {
    for (int g = 0; g < G; g += W)
      UNROLL for (int r = 0; r < R; r++) {
        const V bias = G - g >= W ? load(biases + r * G + g) : load_n(biases + r * G + g, G - g);
        UNROLL for (int m = 0; m < M; m++) total[r][m] = fma(bias, load(a.sums + m * a.groups + g), total[r][m]);
      }
  }
  UNROLL for (int m = 0; m < M; m++) UNROLL for (int r = 0; r < R; r++) out[m * stride + first + r] = sum(total[r][m]);
}

// `count` results of activation row m, for matrix rows n on.
inline void put_results(const MatmulRows& rows, int N, int64_t m, int64_t n, const float* from, int count) {
  by_type(rows.type, [&]<class T>(T*) {
    T* to = (T*)rows.out + m * N + n;
    for (int i = 0; i < count; i += W) {
      const int k = lesser(W, count - i);
      V v = k == W ? load(from + i) : load_n(from + i, k);
      if (rows.bias) v += k == W ? load(rows.bias + n + i) : load_n(rows.bias + n + i, k);
      if (k == W) store(to + i, v);
      else store_n(to + i, v, k);
    }
  });
}

template <class C, int M>
inline void matrix_times(const QuantizedMatrix& w, const MatmulRows& rows, int first) {
  constexpr int R = M <= 2 ? 4 : 2;
  const Activations a = prepare<C>(w, rows, first, M);
  const LaneScales lanes(w, C::per);
  // A task is worth handing to a thread from some tens of kilobytes on.
  const int step = round_up(greater(R, int(49152 / w.row_bytes())), R), tasks = (w.N + step - 1) / step;
  const int G = w.groups(), width = round_up(step * G, W) + W;
  parallel_for(tasks, [&](int t) {
    float* scales = (float*)scratch(kRows, sizeof(float) * (2 * width + M * step));
    float *biases = scales + width, *out = biases + width;
    const int n = t * step, count = lesser(step, w.N - n);
    Part p{w.codes + n * w.row_bytes(), scales, w.biases ? biases : nullptr, G, w.row_bytes()};
    // f32 scales can be used where they lie, if reading a little past the part's stays within the array.
    if (w.scale_type == ScaleType::f32 && int64_t(n + count) * G + W <= int64_t(w.N) * G) {
      p.scales = (const float*)w.scales + int64_t(n) * G;
      if (w.biases) p.biases = (const float*)w.biases + int64_t(n) * G;
    } else {
      read_scales(w.scale_type, w.scales, int64_t(n) * G, count * G, scales);
      if (w.biases) read_scales(w.scale_type, w.biases, int64_t(n) * G, count * G, biases);
    }
    int r = 0;
    for (; r + R <= count; r += R) rows_times<C, M, R>(w, p, a, lanes, r, out, step);
    for (; r < count; r++) rows_times<C, M, 1>(w, p, a, lanes, r, out, step);
    for (int m = 0; m < M; m++) put_results(rows, w.N, first + m, n, out + m * step, count);
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
