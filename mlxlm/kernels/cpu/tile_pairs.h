// The matmul of many rows with pairs of bf16 numbers: weights fill the lanes here, turned once for all rows.
//
// For a tile of weights next to each other the codes become pairs in the order of their words; the activations' rows
// are put into that order, pair by pair, which is a shuffle within 64 bytes.
#pragma once
#include "pairs.h"
#include "transpose.h"

#if MLXLM_LEVEL == 513

namespace {

constexpr int COLUMNS = 2 * W;     // weight rows of a tile
constexpr int AT_ONCE = 8;         // rows of activations: with two columns each, sums enough to hide a product's latency
constexpr int PAIRS_DEPTH = 4096;  // of K at a time: a tile of it stays in the second cache

inline P splat_pair(const uint32_t* p) { return (P)_mm512_set1_epi32(int(*p)); }
inline P load_pairs(const uint32_t* p) { return (P)_mm512_loadu_si512(p); }

// M rows of activations as pairs, row after row, and their sums over each group where the matrix has biases. There are
// rows of zeros up to a multiple of AT_ONCE.
struct PairRows {
  uint32_t* pairs;
  float* sums;
  int M, K, groups;

  static int padded(int M) { return round_up(M, AT_ONCE); }
  static size_t bytes(int M, int K, int groups) { return size_t(padded(M)) * (size_t(K) * 2 + size_t(groups) * 4) + 64; }
  PairRows(void* memory, int M, int K, int groups)
      : pairs((uint32_t*)memory), sums((float*)(pairs + size_t(padded(M)) * K / 2)), M(M), K(K), groups(groups) {}

  template <class Q>
  void fill(const bf16* x, int m, const QuantizedMatrix& w) const {
    alignas(64) uint16_t order[2 * W];
    for (int i = 0; i < 2 * W; i++) order[i] = uint16_t(i / Q::per * Q::per + i % 2 * Q::vectors + i % Q::per / 2);
    const __m512i index = _mm512_load_si512(order);
    uint32_t* out = pairs + size_t(m) * K / 2;
    for (int k = 0; k < K; k += 2 * W) {
      const __mmask32 there = K - k >= 2 * W ? ~0u : (1u << (K - k)) - 1;
      const __m512i v = _mm512_maskz_loadu_epi16(m < M ? there : 0, x + size_t(m) * K + k);
      _mm512_mask_storeu_epi16(out + k / 2, there, _mm512_permutexvar_epi16(index, v));
    }
    if (!w.biases) return;
    for (int g = 0; g < groups; g++) {
      V total{};
      if (m < M) for (int k = 0; k < w.group; k += W) total += load(x + size_t(m) * K + g * w.group + k);
      sums[size_t(m) * groups + g] = sum(total);
    }
  }
};

// COLUMNS weight rows by a part of K: pairs [step][column], scales and biases [group][column].
struct PairTile {
  uint32_t* pairs;
  float *scales, *biases;

  static size_t bytes(int depth, int groups) { return size_t(COLUMNS) * (depth * 2 + groups * 8); }
  PairTile(void* memory, int depth, int groups)
      : pairs((uint32_t*)memory), scales((float*)(pairs + size_t(COLUMNS) * depth / 2)),
        biases(scales + size_t(COLUMNS) * groups) {}

  // Weight rows n on (the last one repeated past the end), K from k to k + depth.
  template <class Q>
  void fill(const QuantizedMatrix& w, int n, int k, int depth) const {
    const P table = Q::table();
    for (int half = 0; half < 2; half++) {
      const uint8_t* row[W];
      for (int i = 0; i < W; i++)
        row[i] = w.codes + lesser(n + half * W + i, w.N - 1) * w.row_bytes() + size_t(k) / Q::block * Q::block_bytes;
      uint32_t* out = pairs + half * W;
      for (int from = 0; from < depth; from += Q::block) {
        const int words = lesser(W, (depth - from) / Q::per);
        if constexpr (Q::across) fill_late<Q>(row, words, table, out);
        else fill_early<Q>(row, words, table, out);
        UNROLL for (int i = 0; i < W; i++) row[i] += Q::block_bytes;
        out += Q::vectors * W * COLUMNS;
      }
    }
    const int first = k / w.group, count = depth / w.group;
    fill_scales(w, n, first, count, w.scales, scales);
    if (w.biases) fill_scales(w, n, first, count, w.biases, biases);
  }

  // A block of W rows: its words are turned, so that each is then unpacked for all rows at once.
  template <class Q>
  static inline void fill_early(const uint8_t* const* row, int words, P table, uint32_t* out) {
    V turned[W];
    UNROLL for (int i = 0; i < W; i++) turned[i] = (V)(words == W ? Q::words(row[i]) : Q::words(row[i], words));
    transpose(turned);
    alignas(64) V kept[W];
    UNROLL for (int i = 0; i < W; i++) kept[i] = turned[i];
    for (int i = 0; i < words; i++) {
      P codes[Q::vectors];
      Q::unpack((__m512i)kept[i], table, codes);
      UNROLL for (int j = 0; j < Q::vectors; j++, out += COLUMNS) _mm512_storeu_si512(out, (__m512i)codes[j]);
    }
  }

  // The same where codes lie across bytes: the pairs are turned.
  template <class Q>
  static inline void fill_late(const uint8_t* const* row, int words, P table, uint32_t* out) {
    alignas(64) V pairs[Q::vectors][W];
    for (int i = 0; i < W; i++) {
      P codes[Q::vectors];
      Q::unpack(words == W ? Q::words(row[i]) : Q::words(row[i], words), table, codes);
      UNROLL for (int j = 0; j < Q::vectors; j++) pairs[j][i] = (V)codes[j];
    }
    for (int j = 0; j < Q::vectors; j++) {
      V turned[W];
      UNROLL for (int i = 0; i < W; i++) turned[i] = pairs[j][i];
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

// kept[r][..] (+)= R rows of activations by `count` groups of the tile, from the given group of theirs on. A group's sums
// stay in registers: for all of a row there would be too few of them to hide what a product takes.
template <int R>
inline void multiply_tile_in_pairs(const QuantizedMatrix& w, const PairTile& t, const PairRows& x, int m, int first,
                                   int count, float* kept) {
  const int steps = w.group / 2, stride = x.K / 2;
  const uint32_t *weight = t.pairs, *row = x.pairs + size_t(m) * stride + size_t(first) * steps;
  const float* sums = x.sums + size_t(m) * x.groups + first;
  for (int g = 0; g < count; g++, row += steps) {
    V acc[R][2] = {};
    for (int s = 0; s < steps; s += 2) {
      UNROLL for (int u = 0; u < 2; u++, weight += COLUMNS) {
        const P low = load_pairs(weight), high = load_pairs(weight + W);
        UNROLL for (int r = 0; r < R; r++) {
          const P one = splat_pair(row + r * stride + s + u);
          acc[r][0] = multiply_pairs(low, one, acc[r][0]);
          acc[r][1] = multiply_pairs(high, one, acc[r][1]);
        }
      }
    }
    UNROLL for (int c = 0; c < 2; c++) {
      const V scale = load(t.scales + g * COLUMNS + c * W);
      const V bias = w.biases ? load(t.biases + g * COLUMNS + c * W) : V{};
      UNROLL for (int r = 0; r < R; r++) {
        float* to = kept + r * COLUMNS + c * W;
        V total = fma(acc[r][c], scale, first + g ? load(to) : V{});
        if (w.biases) total = fma(bias, splat(sums[r * x.groups + g]), total);
        store(to, total);
      }
    }
  }
}

// `rows` finished rows of a tile to `out`, which is at its first row and column; `count` columns are there from it on.
inline void write_pairs(const float* kept, int rows, bf16* out, int N, int count, const float* bias) {
  for (int c = 0; c < lesser(COLUMNS, count); c += W) {
    const int columns = lesser(W, count - c);
    const V more = bias ? load_n(bias + c, columns) : V{};
    for (int r = 0; r < rows; r++) {
      bf16* to = out + size_t(r) * N + c;
      const V v = load(kept + r * COLUMNS + c) + more;
      if (columns == W) store(to, v);
      else store_n(to, v, columns);
    }
  }
}

template <class Q>
inline void tile_in_pairs(const QuantizedMatrix& w, const PairRows& x, int n, bf16* out, const float* bias) {
  const int depth = lesser(w.K, PAIRS_DEPTH), groups = depth / w.group;
  const PairTile tile(scratch(kRows, PairTile::bytes(depth, groups)), depth, groups);
  const bool parts = w.K > depth;  // of K: all rows' sums are kept from one to the next
  float* kept = (float*)scratch(kTile, sizeof(float) * (parts ? PairRows::padded(x.M) : AT_ONCE) * COLUMNS);
  for (int k = 0; k < w.K; k += depth) {
    const int now = lesser(depth, w.K - k), first = k / w.group, count = now / w.group;
    tile.fill<Q>(w, n, k, now);
    for (int m = 0; m < x.M; m += AT_ONCE) {
      float* sums = kept + (parts ? size_t(m) * COLUMNS : 0);
      if (x.M - m > AT_ONCE / 2) multiply_tile_in_pairs<AT_ONCE>(w, tile, x, m, first, count, sums);
      else multiply_tile_in_pairs<AT_ONCE / 2>(w, tile, x, m, first, count, sums);
      if (k + now < w.K) continue;
      write_pairs(sums, lesser(AT_ONCE, x.M - m), out + size_t(m) * w.N + n, w.N, w.N - n, bias ? bias + n : nullptr);
    }
  }
}

template <class Q>
inline void many_rows_in_pairs(const QuantizedMatrix& w, const MatmulRows& rows) {
  // As many rows as leave the second cache room for a tile, in equal parts.
  const int most = greater(64, (1 << 18) / lesser(w.K, PAIRS_DEPTH)), parts = (rows.M + most - 1) / most;
  const int chunk = PairRows::padded((rows.M + parts - 1) / parts), tiles = (w.N + COLUMNS - 1) / COLUMNS;
  for (int first = 0; first < rows.M; first += chunk) {
    const int M = lesser(chunk, rows.M - first);
    const PairRows x(scratch(kPanel, PairRows::bytes(M, w.K, w.groups())), M, w.K, w.groups());
    const bf16* from = (const bf16*)rows.x + size_t(first) * w.K;
    parallel_for(PairRows::padded(M) / AT_ONCE, [&](int i) {
      for (int m = i * AT_ONCE; m < (i + 1) * AT_ONCE; m++) x.fill<Q>(from, m, w);
    });
    parallel_for(tiles, [&](int t) {
      tile_in_pairs<Q>(w, x, t * COLUMNS, (bf16*)rows.out + size_t(first) * w.N, rows.bias);
    });
  }
}

}  // namespace
#endif
