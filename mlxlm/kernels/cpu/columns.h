// Matmul by a matrix that is stored as (K, N), the other way round than a linear layer's: its columns fill the lanes,
// and the activations are the broadcast side.
#pragma once
#include "codes.h"
#include "tile.h"

namespace {

constexpr int STEP = 256;  // rows of the matrix that are numbers at a time: a panel of them stays in the first cache

// Where a matrix's numbers come from: load() gives row k of columns n .. n + width, lane i of vector j being column
// n + place(j, i).
template <class C>
struct QuantizedColumns {
  static constexpr int vectors = C::per, width = C::block;
  const QuantizedMatrix& w;
  const LaneScales lanes;
  explicit QuantizedColumns(const QuantizedMatrix& m) : w(m), lanes(m, C::per) {}

  static constexpr bool in_order = false;
  static constexpr int place(int j, int i) { return i * C::per + j; }
  int K() const { return w.N; }
  int N() const { return w.K; }

  V per_lane(const void* all, int k, int n, bool whole) const {
    alignas(64) float few[W] = {};
    const int first = n / w.group, count = lesser(greater(1, width / w.group), w.groups() - first);
    read_scales(w.scale_type, all, int64_t(k) * w.groups() + first, count, few);
    return permute(::load(few), whole ? lanes.index : lanes.last_index);
  }
  void load(int k, int n, V* out) const {
    const int left = (w.K - n) / C::per;
    const uint8_t* p = w.codes + size_t(k) * w.row_bytes() + size_t(n) / width * C::block_bytes;
    if (left >= W) C::unpack(p, out);
    else C::unpack(p, left, out);
    const V scale = per_lane(w.scales, k, n, left >= W), bias = w.biases ? per_lane(w.biases, k, n, left >= W) : V{};
    UNROLL for (int j = 0; j < vectors; j++) out[j] = fma(out[j], scale, bias);
  }
};

template <class T>
struct DenseColumns {
  static constexpr int vectors = 8, width = vectors * W;
  const DenseMatrix& w;

  static constexpr bool in_order = true;
  static constexpr int place(int j, int i) { return j * W + i; }
  int K() const { return w.N; }
  int N() const { return w.K; }

  void load(int k, int n, V* out) const {
    const T* from = (const T*)w.data + k * w.stride + n;
    for (int j = 0; j < vectors; j++) {
      const int left = w.K - n - j * W;
      out[j] = left >= W ? ::load(from + j * W) : left > 0 ? load_n(from + j * W, left) : V{};
    }
  }
};

// out[columns n on] of one row = what `tile` has in the source's order, and the bias.
template <class Source, class T>
inline void write_columns(const float* tile, int n, int N, const float* bias, T* out) {
  int first = 0;
  if constexpr (Source::in_order)
    for (; first < Source::vectors && n + (first + 1) * W <= N; first++) {
      const V y = load(tile + first * W);
      store(out + n + first * W, bias ? y + load(bias + n + first * W) : y);
    }
  for (int j = first; j < Source::vectors; j++)
    for (int i = 0; i < W; i++) {
      const int at = n + Source::place(j, i);
      if (at < N) put(out + at, tile[j * W + i] + (bias ? bias[at] : 0.f));
    }
}

// One row, or two, without panels: each number is used as soon as it is made.
template <int M, class Source>
inline void few_by_columns(const Source& source, const float* x, const MatmulRows& rows) {
  const int K = source.K(), N = source.N();
  parallel_for((N + Source::width - 1) / Source::width, [&](int task) {
    const int n = task * Source::width;
    V total[M][Source::vectors] = {};
    for (int k = 0; k < K; k++) {
      V w[Source::vectors];
      source.load(k, n, w);
      UNROLL for (int m = 0; m < M; m++) {
        const V one = splat(x[size_t(m) * K + k]);
        UNROLL for (int j = 0; j < Source::vectors; j++) total[m][j] = fma(w[j], one, total[m][j]);
      }
    }
    for (int m = 0; m < M; m++) {
      alignas(64) float tile[Source::width];
      for (int j = 0; j < Source::vectors; j++) store(tile + j * W, total[m][j]);
      by_type(rows.type, [&]<class T>(T*) { write_columns<Source>(tile, n, N, rows.bias, (T*)rows.out + size_t(m) * N); });
    }
  });
}

// A task's columns by M rows of x, STEP rows of the matrix at a time.
template <class Source>
inline void tile_by_columns(const Source& source, int n, const float* x, int M, float* tile) {
  constexpr int panels = Source::vectors / 2;
  const int K = source.K();
  float* panel = (float*)scratch(kRows, sizeof(float) * STEP * Source::width);
  for (int k = 0; k < K; k += STEP) {
    const int depth = lesser(STEP, K - k);
    for (int i = 0; i < depth; i++) {
      V w[Source::vectors];
      source.load(k + i, n, w);
      UNROLL for (int j = 0; j < Source::vectors; j++)
        store(panel + size_t(j / 2) * STEP * WIDE + i * WIDE + j % 2 * W, w[j]);
    }
    for (int m = 0; m < M; m += ROWS) {
      const float* row[ROWS];
      for (int r = 0; r < ROWS; r++) row[r] = x + size_t(lesser(m + r, M - 1)) * K + k;
      for (int p = 0; p < panels; p++)
        multiply_tile<2>(row, panel + size_t(p) * STEP * WIDE, depth, tile + size_t(m) * Source::width + p * WIDE,
                         Source::width, k == 0);
    }
  }
}

template <class Source>
inline void by_columns(const Source& source, const MatmulRows& rows) {
  const int K = source.K(), N = source.N();
  for (int first = 0; first < rows.M; first += CHUNK) {
    const int M = lesser(CHUNK, rows.M - first);
    const float* x = (const float*)rows.x + size_t(first) * K;
    if (rows.type != Dtype::f32) {
      float* wide = (float*)scratch(kPanel, sizeof(float) * M * K);
      by_type(rows.type, [&]<class T>(T*) { widen((const T*)rows.x + size_t(first) * K, M * K, wide); });
      x = wide;
    }
    if (rows.M == 1) return few_by_columns<1>(source, x, rows);
    if (rows.M == 2) return few_by_columns<2>(source, x, rows);
    parallel_for((N + Source::width - 1) / Source::width, [&](int task) {
      const int n = task * Source::width;
      float* tile = (float*)scratch(kTile, sizeof(float) * round_up(M, ROWS) * Source::width);
      tile_by_columns(source, n, x, M, tile);
      by_type(rows.type, [&]<class T>(T*) {
        for (int m = 0; m < M; m++)
          write_columns<Source>(tile + size_t(m) * Source::width, n, N, rows.bias, (T*)rows.out + size_t(first + m) * N);
      });
    });
  }
}

void quantized_by_columns(const QuantizedMatrix& w, const MatmulRows& rows) {
  by_format(w, [&]<class C>(C) { by_columns(QuantizedColumns<C>(w), rows); });
}

void dense_by_columns(const DenseMatrix& w, const MatmulRows& rows) {
  by_type(w.type, [&]<class T>(T*) { by_columns(DenseColumns<T>{w}, rows); });
}

}  // namespace
