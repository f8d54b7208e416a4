// The matmul of many rows with pairs of bf16 numbers.
//
// For a tile of weights next to each other the codes become pairs in the order of their words; the activations' rows
// are put into that order, pair by pair, which is a shuffle within 64 bytes.
#pragma once
#include "pairs.h"
#include "tile_lanes.h"

#if MLXLM_LEVEL == 513

namespace {

inline P splat_pair(const uint32_t* p) { return (P)_mm512_set1_epi32(int(*p)); }
inline P load_pairs(const uint32_t* p) { return (P)_mm512_loadu_si512(p); }

// Pairs as the tile takes them.
template <class Q>
struct PairLanes : Q {
  static constexpr bool late = Q::across;

  static inline void unpack(U word, P table, U* out) { given((__m512i)word, table, out); }
  static inline void unpack(const uint8_t* p, int words, P table, U* out) {
    given(words == W ? Q::words(p) : Q::words(p, words), table, out);
  }
  static inline void given(__m512i word, P table, U* out) {
    P codes[Q::vectors];
    Q::unpack(word, table, codes);
    UNROLL for (int j = 0; j < Q::vectors; j++) out[j] = (U)codes[j];
  }
  static void give_biases(float*, float*, int) {}
};

// M rows of activations as pairs, row after row, and their sums over each group where the matrix has biases. There are
// rows of zeros up to `padded`.
template <class Q>
struct PairRows {
  uint32_t* pairs;
  float* sums;
  int M, K, groups;

  static size_t bytes(int padded, const QuantizedMatrix& w) { return size_t(padded) * (size_t(w.K) * 2 + size_t(w.groups()) * 4) + 64; }
  PairRows(void* memory, int M, int padded, const QuantizedMatrix& w)
      : pairs((uint32_t*)memory), sums((float*)(pairs + size_t(padded) * w.K / 2)), M(M), K(w.K), groups(w.groups()) {}

  void fill(Dtype, const void* from, int m, const QuantizedMatrix& w) const {
    const bf16* x = (const bf16*)from;
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

template <class Q>
struct PairTiles {
  using Codes = PairLanes<Q>;
  using Rows = PairRows<Q>;
  static constexpr int at_once = 8;       // with two columns each, sums enough to hide a product's latency
  static constexpr int depth = 4096;      // a tile of it stays in the second cache
  static constexpr int cached = 1 << 18;  // numbers of rows that do so too

  // kept[r][..] (+)= R rows of activations by `count` groups of the tile, from the given group of theirs on. A group's
  // sums stay in registers: for all of a row there would be too few of them to hide what a product takes.
  template <int R>
  static inline void multiply(const QuantizedMatrix& w, const LaneTile<Codes>& t, const Rows& x, int m, int first, int count,
                              float* kept) {
    const int steps = w.group / 2, stride = x.K / 2;
    const uint32_t *weight = t.lanes, *row = x.pairs + size_t(m) * stride + size_t(first) * steps;
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
};

}  // namespace
#endif
