// The matmul of many rows where weights fill the lanes: a tile of them is unpacked and turned once, and meets all rows.
//
// A lane holds several codes next to each other in K; the activations' rows are put into the order in which they come.
#pragma once
#include "codes.h"
#include "transpose.h"

namespace {

constexpr int COLUMNS = 2 * W;  // weight rows of a tile

// COLUMNS weight rows by a part of K: lanes [step][column], scales and biases [group][column].
//
// Q says what a lane holds: its codes come as words of `per` codes, W words a block, and each word as `vectors` lanes.
// Where it is `late`, words can't be unpacked for several rows at once: the lanes are turned, not the words.
template <class Q>
struct LaneTile {
  uint32_t* lanes;
  float *scales, *biases;

  static constexpr int codes = Q::per / Q::vectors;  // of a lane
  static size_t bytes(int depth, int groups) { return size_t(COLUMNS) * (depth / codes * 4 + groups * 8); }
  LaneTile(void* memory, int depth, int groups)
      : lanes((uint32_t*)memory), scales((float*)(lanes + size_t(COLUMNS) * depth / codes)),
        biases(scales + size_t(COLUMNS) * groups) {}

  // Weight rows n on (the last one repeated past the end), K from k to k + depth.
  void fill(const QuantizedMatrix& w, int n, int k, int depth) const {
    const auto table = Q::table();
    for (int half = 0; half < 2; half++) {
      const uint8_t* row[W];
      for (int i = 0; i < W; i++)
        row[i] = w.codes + lesser(n + half * W + i, w.N - 1) * w.row_bytes() + size_t(k) / Q::block * Q::block_bytes;
      uint32_t* out = lanes + half * W;
      for (int from = 0; from < depth; from += Q::block) {
        const int words = lesser(W, (depth - from) / Q::per);
        if constexpr (Q::late) fill_late(row, words, table, out);
        else fill_early(row, words, table, out);
        UNROLL for (int i = 0; i < W; i++) row[i] += Q::block_bytes;
        out += Q::vectors * W * COLUMNS;
      }
    }
    const int first = k / w.group, count = depth / w.group;
    fill_scales(w, n, first, count, w.scales, scales);
    if (w.biases) fill_scales(w, n, first, count, w.biases, biases);
    else Q::give_biases(scales, biases, count * COLUMNS);
  }

  // A block of W rows: its words are turned, so that each is then unpacked for all rows at once.
  template <class Table>
  static inline void fill_early(const uint8_t* const* row, int words, Table table, uint32_t* out) {
    V turned[W];
    UNROLL for (int i = 0; i < W; i++) turned[i] = (V)(words == W ? lanes_of<4>(row[i]) : lanes_of<4>(row[i], words));
    transpose(turned);
    alignas(64) V kept[W];
    UNROLL for (int i = 0; i < W; i++) kept[i] = turned[i];
    for (int i = 0; i < words; i++) {
      U lanes[Q::vectors];
      Q::unpack((U)kept[i], table, lanes);
      UNROLL for (int j = 0; j < Q::vectors; j++, out += COLUMNS) store((float*)out, (V)lanes[j]);
    }
  }

  template <class Table>
  static inline void fill_late(const uint8_t* const* row, int words, Table table, uint32_t* out) {
    alignas(64) V all[Q::vectors][W];
    for (int i = 0; i < W; i++) {
      U lanes[Q::vectors];
      Q::unpack(row[i], words, table, lanes);
      UNROLL for (int j = 0; j < Q::vectors; j++) all[j][i] = (V)lanes[j];
    }
    for (int j = 0; j < Q::vectors; j++) {
      V turned[W];
      UNROLL for (int i = 0; i < W; i++) turned[i] = all[j][i];
      transpose(turned);
      UNROLL for (int i = 0; i < W; i++)
        if (i < words) store((float*)(out + (i * Q::vectors + j) * COLUMNS), turned[i]);
    }
  }

  static void fill_scales(const QuantizedMatrix& w, int n, int first, int count, const void* from, float* to) {
    float* row = (float*)scratch(kOther, sizeof(float) * (count + W));
    for (int i = 0; i < COLUMNS; i++) {
      read_scales(w.scale_type, from, int64_t(lesser(n + i, w.N - 1)) * w.groups() + first, count, row);
      for (int g = 0; g < count; g++) to[g * COLUMNS + i] = row[g];
    }
  }
};

// Rows m .. m + count of a tile's results to columns n on of the result's rows, from `first` on.
inline void write_lanes(const float* kept, const MatmulRows& rows, int m, int count, int n, int N) {
  by_type(rows.type, [&]<class T>(T*) {
    for (int c = 0; c < lesser(COLUMNS, N - n); c += W) {
      const int columns = lesser(W, N - n - c);
      const V more = rows.bias ? load_n(rows.bias + n + c, columns) : V{};
      for (int r = 0; r < count; r++) {
        T* to = (T*)rows.out + size_t(m + r) * N + n + c;
        const V v = load(kept + r * COLUMNS + c) + more;
        if (columns == W) store(to, v);
        else store_n(to, v, columns);
      }
    }
  });
}

// Columns n on of the result's rows first .. first + x.M. Product says how rows of activations lie (`Rows`), how much of
// K a tile has (`depth`), how many rows meet it at a time, and how.
template <class Product>
inline void tile_by_rows(const QuantizedMatrix& w, const typename Product::Rows& x, int n, const MatmulRows& rows,
                         int first) {
  using Tile = LaneTile<typename Product::Codes>;
  constexpr int R = Product::at_once;
  const int depth = lesser(w.K, Product::depth), groups = depth / w.group;
  const Tile tile(scratch(kRows, Tile::bytes(depth, groups)), depth, groups);
  const bool parts = w.K > depth;  // of K: all rows' sums are kept from one to the next
  float* kept = (float*)scratch(kTile, sizeof(float) * (parts ? round_up(x.M, R) : R) * COLUMNS);
  for (int k = 0; k < w.K; k += depth) {
    const int now = lesser(depth, w.K - k), group = k / w.group, count = now / w.group;
    tile.fill(w, n, k, now);
    for (int m = 0; m < x.M; m += R) {
      float* sums = kept + (parts ? size_t(m) * COLUMNS : 0);
      if (x.M - m > R / 2) Product::template multiply<R>(w, tile, x, m, group, count, sums);
      else Product::template multiply<R / 2>(w, tile, x, m, group, count, sums);
      if (k + now == w.K) write_lanes(sums, rows, first + m, lesser(R, x.M - m), n, w.N);
    }
  }
}

// As many rows at a time as leave the second cache room for a tile, in equal parts.
template <class Product>
inline void many_rows_by_lanes(const QuantizedMatrix& w, const MatmulRows& rows) {
  constexpr int R = Product::at_once;
  const int most = greater(64, Product::cached / lesser(w.K, Product::depth)), parts = (rows.M + most - 1) / most;
  const int chunk = round_up((rows.M + parts - 1) / parts, R), tiles = (w.N + COLUMNS - 1) / COLUMNS;
  for (int first = 0; first < rows.M; first += chunk) {
    const int M = lesser(chunk, rows.M - first), padded = round_up(M, R);
    const typename Product::Rows x(scratch(kPanel, Product::Rows::bytes(padded, w)), M, padded, w);
    const void* from = (const char*)rows.x + size_of(rows.type) * first * w.K;
    parallel_for(padded / R, [&](int i) {
      for (int m = i * R; m < (i + 1) * R; m++) x.fill(rows.type, from, m, w);
    });
    parallel_for(tiles, [&](int t) { tile_by_rows<Product>(w, x, t * COLUMNS, rows, first); });
  }
}

}  // namespace
