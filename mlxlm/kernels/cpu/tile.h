// The matmul of many rows. Weights are the broadcast side, activations the side that fills the lanes, so that weights
// are used in the order they are stored in, and never transposed.
#pragma once
#include "codes.h"
#include "transpose.h"

namespace {

constexpr int DEPTH = 512;   // how much of K a tile covers: ROWS * DEPTH weights stay in the first cache
constexpr int CHUNK = 256;   // how many activation rows are packed at a time: bounds the scratch memory
constexpr int TILES = 8;     // how many tiles of weights meet a part of the panels before the next part is fetched
constexpr int EARLY = 128;   // how many weights early one is fetched
constexpr int WIDE = 2 * W;  // activation rows of a panel

// M activation rows as panels: panel p holds rows p * WIDE on, as [k][row], with K padded to `length` by zeros. The
// last panel is W wide where that is enough.
struct Panels {
  float* data;
  int M, length;
  int count() const { return (M + WIDE - 1) / WIDE; }
  int width(int p) const { return M - p * WIDE > W ? WIDE : W; }
  float* at(int p) const { return data + size_t(p) * WIDE * length; }
  size_t size() const { return size_t(count()) * WIDE * length; }
};

// Where value k of a row stands in a panel: `per` says which block order the weights come in (see Codes), 0 for none.
template <int per>
inline int place_of(int k) {
  if constexpr (per == 0) return k;
  else return k / (per * W) * (per * W) + k % per * W + k / per % W;
}

// Panel p from the rows of x, W values of W rows at a time.
template <int per, class T>
inline void pack_panel(const T* x, int K, const Panels& panels, int p) {
  const int width = panels.width(p), rows = lesser(panels.M - p * WIDE, width);
  float* out = panels.at(p);
  for (int i = 0; i < width; i += W) {
    const T* from = x + size_t(p * WIDE + i) * K;
    for (int k = 0; k < panels.length; k += W) {
      V tile[W];
      const int left = lesser(W, K - k);
      UNROLL for (int r = 0; r < W; r++) {
        const T* row = from + size_t(r) * K + k;
        tile[r] = i + r >= rows || left <= 0 ? V{} : left == W ? load(row) : load_n(row, left);
      }
      transpose(tile);
      for (int j = 0; j < lesser(W, panels.length - k); j++) store(out + size_t(place_of<per>(k + j)) * width + i, tile[j]);
    }
  }
}

// How a tile's weights meet activations, lane by lane: a float each, or (dense.h) a pair of bf16 numbers.
struct Floats {
  static inline V add(V weight, V x, V total) { return fma(weight, x, total); }
  template <int per>
  static inline void pack(const MatmulRows& rows, int first, int K, const Panels& panels, int p) {
    by_type(rows.type, [&]<class T>(T*) { pack_panel<per>((const T*)rows.x + size_t(first) * K, K, panels, p); });
  }
};

// out[r][0..N*W) += sum over k of weight[r][k] * panel[k][0..N*W), for ROWS rows.
template <int N, class Product = Floats>
inline void multiply_tile(const float* const* weight, const float* panel, int depth, float* out, int out_stride,
                          bool first) {
  V acc[ROWS][N];
  UNROLL for (int r = 0; r < ROWS; r++)
    UNROLL for (int c = 0; c < N; c++) acc[r][c] = first ? V{} : load(out + r * out_stride + c * W);
  const float* w[ROWS];
  UNROLL for (int r = 0; r < ROWS; r++) w[r] = weight[r];
  for (int k = 0; k < depth; k++, panel += N * W) {
    // Few activations leave memory the slower side: the rows' next parts are asked for early.
    if constexpr (N == 1)
      if (k % 16 == 0) UNROLL for (int r = 0; r < ROWS; r++) __builtin_prefetch(w[r] + k + EARLY);
    V x[N];
    UNROLL for (int c = 0; c < N; c++) x[c] = load(panel + c * W);
    UNROLL for (int r = 0; r < ROWS; r++) {
      V one = splat(w[r][k]);
      UNROLL for (int c = 0; c < N; c++) acc[r][c] = Product::add(one, x[c], acc[r][c]);
    }
  }
  UNROLL for (int r = 0; r < ROWS; r++) UNROLL for (int c = 0; c < N; c++) store(out + r * out_stride + c * W, acc[r][c]);
}

// out rows first .. first + M, columns n .. n + count, from tile[r][m]; `tile` has room for whole vectors of m.
template <class T>
inline void write_tile(const float* tile, int stride, const MatmulRows& rows, int first, int M, int N, int n, int count) {
  static_assert(ROWS <= W);
  const V bias = rows.bias ? load_n(rows.bias + n, count) : V{};
  for (int m = 0; m < M; m += W) {
    V v[W];
    UNROLL for (int r = 0; r < W; r++) v[r] = r < ROWS ? load(tile + r * stride + m) : V{};
    transpose(v);
    T* out = (T*)rows.out + size_t(first + m) * N + n;
    const int left = lesser(W, M - m);
    UNROLL for (int i = 0; i < W; i++)
      if (i < left) store_n(out + size_t(i) * N, v[i] + bias, count);
  }
}

// Rows n on of the matrix, `tiles` times ROWS, by all panels: to tile[row][m].
template <class Product, class Source>
inline void multiply_tiles(const Source& source, int n, int tiles, const Panels& panels, float* tile, int stride) {
  float* buffer = (float*)scratch(kRows, sizeof(float) * (ROWS * DEPTH + source.extra()));
  // A part of the panels that the second cache holds meets all tiles before the next part does.
  for (int k = 0; k < panels.length; k += DEPTH)
    for (int t = 0; t < tiles; t++) {
      const int depth = lesser(DEPTH, panels.length - k);
      const float* weight[ROWS];
      source.rows(n + t * ROWS, k, depth, buffer, weight);
      for (int p = 0; p < panels.count(); p++) {
        const float* panel = panels.at(p) + size_t(k) * panels.width(p);
        float* out = tile + t * ROWS * stride + p * WIDE;
        if (panels.width(p) == WIDE) multiply_tile<2, Product>(weight, panel, depth, out, stride, k == 0);
        else multiply_tile<1, Product>(weight, panel, depth, out, stride, k == 0);
      }
    }
}

// Runs `rows` against N weight rows. source.rows(n, k, depth, buffer, pointers) gives ROWS pointers to f32 weights,
// rows n on (the last repeated past the end), K from k on.
template <int per, class Product = Floats, class Source>
inline void many_rows(const Source& source, int N, int K, int length, const MatmulRows& rows) {
  for (int first = 0; first < rows.M; first += CHUNK) {
    Panels panels{nullptr, lesser(CHUNK, rows.M - first), length};
    panels.data = (float*)scratch(kPanel, sizeof(float) * panels.size());
    parallel_for(panels.count(), [&](int p) { Product::template pack<per>(rows, first, K, panels, p); });
    const int stride = round_up(panels.M, WIDE), tiles = (N + ROWS - 1) / ROWS;
    const int share = greater(1, lesser(TILES, tiles / (4 * pool_size()))), tasks = (tiles + share - 1) / share;
    parallel_for(tasks, [&](int task) {
      const int begin = task * share, count = lesser(share, tiles - begin);
      float* tile = (float*)scratch(kTile, sizeof(float) * share * ROWS * stride);
      multiply_tiles<Product>(source, begin * ROWS, count, panels, tile, stride);
      by_type(rows.type, [&]<class T>(T*) {
        for (int t = 0; t < count; t++) {
          const int n = (begin + t) * ROWS;
          write_tile<T>(tile + t * ROWS * stride, stride, rows, first, panels.M, N, n, lesser(ROWS, N - n));
        }
      });
    });
  }
}

}  // namespace
