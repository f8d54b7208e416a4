// The matmul of many rows with pairs of bf16 numbers: like tile.h's, two steps of K at a time.
#pragma once
#include "pairs.h"
#include "tile.h"

#if MLXLM_LEVEL == 513

namespace {

inline P splat_pair(const uint32_t* p) { return (P)_mm512_set1_epi32(int(*p)); }
inline P load_pairs(const uint32_t* p) { return (P)_mm512_loadu_si512(p); }

// M activation rows as panels of pairs: [pair of k][row], 32 bits each, K padded to `length` by zeros.
struct PairPanels {
  uint32_t* data;
  float* sums;  // [group][row] of all panels' rows, where the matrix has biases
  int M, length;
  int count() const { return (M + WIDE - 1) / WIDE; }
  int width(int p) const { return M - p * WIDE > W ? WIDE : W; }
  int rows() const { return count() * WIDE; }
  uint32_t* at(int p) const { return data + size_t(p) * WIDE * length / 2; }
};

// acc[r][c] += sum over `lanes` pairs of each of `vectors` vectors; weights and panel have the vectors W pairs apart.
template <int N, int vectors>
inline void multiply_group(const uint32_t* const* weight, const uint32_t* panel, int lanes, V (&acc)[ROWS][N]) {
  for (int j = 0; j < vectors; j++)
    for (int lane = 0; lane < lanes; lane++) {
      const int at = j * W + lane;
      P x[N];
      UNROLL for (int c = 0; c < N; c++) x[c] = load_pairs(panel + (at * N + c) * W);
      UNROLL for (int r = 0; r < ROWS; r++) {
        const P one = splat_pair(weight[r] + at);
        UNROLL for (int c = 0; c < N; c++) acc[r][c] = multiply_pairs(one, x[c], acc[r][c]);
      }
    }
}

// ROWS rows' codes as pairs, and the scales and biases of all their groups.
struct PairTile {
  const uint32_t* weight[ROWS];
  const float *scale[ROWS], *bias[ROWS];
};

// out[r][0..N*W) += the tile's rows by the panel, for groups first .. end; both begin with the first of them.
template <int N, class Q>
inline void multiply_tile_in_pairs(const QuantizedMatrix& w, const PairTile& t, const uint32_t* panel, const float* sums,
                                   int sums_stride, int first, int end, float* out, int out_stride) {
  const int lanes = w.group / Q::per, in_block = W / lanes;
  const uint32_t* weight[ROWS];
  for (int g = first; g < end; g++) {
    V acc[ROWS][N] = {};
    const int at = (g - first) / in_block * Q::vectors * W + (g - first) % in_block * lanes;
    UNROLL for (int r = 0; r < ROWS; r++) weight[r] = t.weight[r] + at;
    multiply_group<N, Q::vectors>(weight, panel + size_t(at) * N * W, lanes, acc);
    UNROLL for (int r = 0; r < ROWS; r++) {
      const V scale = splat(t.scale[r][g]);
      UNROLL for (int c = 0; c < N; c++) {
        float* to = out + r * out_stride + c * W;
        V total = fma(acc[r][c], scale, g ? load(to) : V{});
        if (w.biases) total = fma(splat(t.bias[r][g]), load(sums + g * sums_stride + c * W), total);
        store(to, total);
      }
    }
  }
}

template <class Q>
inline void pack_pair_panel(const bf16* x, int K, const PairPanels& panels, int p, const QuantizedMatrix& w) {
  const int width = panels.width(p), rows = lesser(panels.M - p * WIDE, width), pairs = panels.length / 2;
  uint32_t* out = panels.at(p);
  alignas(64) uint32_t row[W][W];
  for (int first = 0; first < width; first += W)
    for (int block = 0; block < pairs; block += Q::vectors * W) {
      // W rows' pairs in the order of the codes, then turned so that rows lie side by side.
      for (int j = 0; j < Q::vectors; j++) {
        for (int i = 0; i < W; i++) {
          const bf16* from = x + size_t(p * WIDE + first + i) * K;
          for (int lane = 0; lane < W; lane++) {
            const int k = block * 2 + lane * Q::per + j;
            row[i][lane] = first + i < rows && k < K ? from[k].bits | uint32_t(from[k + Q::vectors].bits) << 16 : 0;
          }
        }
        V tile[W];
        UNROLL for (int i = 0; i < W; i++) tile[i] = load((const float*)row[i]);
        transpose(tile);
        UNROLL for (int lane = 0; lane < W; lane++)
          store((float*)(out + size_t(block + j * W + lane) * width + first), tile[lane]);
      }
    }
  if (!w.biases) return;
  for (int i = 0; i < WIDE; i++)
    for (int g = 0; g < w.groups(); g++) {
      V total{};
      if (i < rows)
        for (int k = 0; k < w.group; k += W) total += load(x + size_t(p * WIDE + i) * K + g * w.group + k);
      panels.sums[size_t(g) * panels.rows() + p * WIDE + i] = sum(total);
    }
}

// The codes of row n, `blocks` blocks from b on, as pairs.
template <class Q>
inline void unpack_row(const QuantizedMatrix& w, int n, int b, int blocks, uint32_t* out) {
  const uint8_t* p = w.codes + size_t(n) * w.row_bytes() + size_t(b) * Q::block_bytes;
  const P table = Q::table();
  for (int i = 0; i < blocks; i++, p += Q::block_bytes) {
    const int left = lesser(W, (w.K - (b + i) * Q::block) / Q::per);
    P codes[Q::vectors];
    Q::unpack(left == W ? Q::words(p) : Q::words(p, left), table, codes);
    UNROLL for (int j = 0; j < Q::vectors; j++, out += W) _mm512_storeu_si512(out, (__m512i)codes[j]);
  }
}

template <class Q>
inline void many_rows_in_pairs(const QuantizedMatrix& w, const MatmulRows& rows) {
  constexpr int BLOCKS = 2 * DEPTH / Q::block;  // as many bytes of weights as there are in a tile of floats
  const int blocks = blocks_of(w.K, Q::block), G = w.groups(), tiles = (w.N + ROWS - 1) / ROWS;
  for (int first = 0; first < rows.M; first += CHUNK) {
    PairPanels panels{nullptr, nullptr, lesser(CHUNK, rows.M - first), blocks * Q::block};
    const size_t pairs = size_t(panels.rows()) * panels.length / 2;
    panels.data = (uint32_t*)scratch(kPanel, 4 * (pairs + size_t(panels.rows()) * G));
    panels.sums = (float*)(panels.data + pairs);
    const bf16* x = (const bf16*)rows.x + size_t(first) * w.K;
    parallel_for(panels.count(), [&](int p) { pack_pair_panel<Q>(x, w.K, panels, p, w); });
    const int share = greater(1, lesser(4, tiles / (4 * pool_size()))), tasks = (tiles + share - 1) / share;
    parallel_for(tasks, [&](int task) {
      const int stride = panels.rows(), padded = padded_groups(w);
      float* tile = (float*)scratch(kTile, sizeof(float) * ROWS * stride);
      uint32_t* codes = (uint32_t*)scratch(kRows, 4 * (ROWS * BLOCKS * Q::block / 2 + 2 * ROWS * padded));
      float* scales = (float*)(codes + ROWS * BLOCKS * Q::block / 2);
      for (int t = task * share; t < lesser(tiles, (task + 1) * share); t++) {
        PairTile part;
        for (int r = 0; r < ROWS; r++) {
          const int n = lesser(t * ROWS + r, w.N - 1);
          float *scale = scales + 2 * r * padded, *bias = scale + padded;
          read_scales(w.scale_type, w.scales, int64_t(n) * G, G, scale);
          if (w.biases) read_scales(w.scale_type, w.biases, int64_t(n) * G, G, bias);
          part.scale[r] = scale, part.bias[r] = bias, part.weight[r] = codes + r * BLOCKS * Q::block / 2;
        }
        for (int b = 0; b < blocks; b += BLOCKS) {
          const int now = lesser(BLOCKS, blocks - b);
          for (int r = 0; r < ROWS; r++)
            unpack_row<Q>(w, lesser(t * ROWS + r, w.N - 1), b, now, codes + r * BLOCKS * Q::block / 2);
          const int from = b * Q::block / w.group, to = lesser(G, (b + now) * Q::block / w.group);
          for (int p = 0; p < panels.count(); p++) {
            const uint32_t* panel = panels.at(p) + size_t(b) * (Q::block / 2) * panels.width(p);
            const float* sums = panels.sums + p * WIDE;
            if (panels.width(p) == WIDE)
              multiply_tile_in_pairs<2, Q>(w, part, panel, sums, stride, from, to, tile + p * WIDE, stride);
            else multiply_tile_in_pairs<1, Q>(w, part, panel, sums, stride, from, to, tile + p * WIDE, stride);
          }
        }
        write_tile<bf16>(tile, stride, rows, first, panels.M, w.N, t * ROWS, lesser(ROWS, w.N - t * ROWS));
      }
    });
  }
}

}  // namespace
#endif
