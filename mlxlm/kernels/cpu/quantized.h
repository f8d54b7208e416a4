// Quantized matmul: few rows go weight by weight, many rows by tiles.
#pragma once
#include "few_rows.h"
#include "tile.h"
#include "tile_bytes.h"
#include "tile_pairs.h"

namespace {

// Numbers from codes for a part of a row: blocks b .. b + count of row n, in block order, to out.
template <class C>
inline void dequantize_blocks(const QuantizedMatrix& w, const LaneScales& lanes, const float* scales, const float* biases,
                              int64_t n, int b, int count, float* out) {
  const uint8_t* p = w.codes + size_t(n) * w.row_bytes() + size_t(b) * C::block_bytes;
  V codes[C::per];
  for (int i = 0; i < count; i++, p += C::block_bytes, out += C::block) {
    const int left = (w.K - (b + i) * C::block) / C::per;
    if (left >= W) C::unpack(p, codes);
    else C::unpack(p, left, codes);
    const V scale = left >= W ? lanes.of(scales, b + i) : lanes.of_last(scales, b + i);
    const V bias = !biases ? V{} : left >= W ? lanes.of(biases, b + i) : lanes.of_last(biases, b + i);
    UNROLL for (int j = 0; j < C::per; j++) store(out + j * W, fma(codes[j], scale, bias));
  }
}

template <class C>
struct QuantizedRows {
  const QuantizedMatrix& w;
  const LaneScales lanes;

  size_t extra() const { return 2 * size_t(padded_groups(w)); }

  void rows(int n, int k, int depth, float* buffer, const float** out) const {
    const int first = k / w.group, count = lesser((k + depth + w.group - 1) / w.group, w.groups()) - first;
    float* scales = buffer + ROWS * DEPTH;
    float* biases = scales + padded_groups(w);
    for (int r = 0; r < ROWS; r++) {
      out[r] = buffer + r * DEPTH;
      if (n + r >= w.N) {
        out[r] = out[r - 1];
        continue;
      }
      const int64_t row = int64_t(n + r) * w.groups() + first;
      read_scales(w.scale_type, w.scales, row, count, scales + first);
      if (w.biases) read_scales(w.scale_type, w.biases, row, count, biases + first);
      dequantize_blocks<C>(w, lanes, scales, w.biases ? biases : nullptr, n + r, k / C::block, depth / C::block,
                           buffer + r * DEPTH);
    }
  }
};

// From how many rows on the tiles are worth their dequantizing and their unused lanes.
constexpr int FEW = W <= 8 ? 4 : 8;

void quantized_matmul(const QuantizedMatrix& w, const MatmulRows& rows) {
  if (rows.M <= FEW) {
    const FewRows few{&w, 1, Join::each, Gate::silu, rows.type, rows.M, &rows.x, &rows.out,
                      rows.bias ? &rows.bias : nullptr, nullptr, nullptr};
    return few_rows(few);
  }
  by_format(w, [&]<Format format, int bits>(Codes<format, bits>) {
#if MLXLM_LEVEL >= 2
    using B = Bytes<format, bits>;
    if constexpr (B::fits) if (rows.in_bytes && w.group >= 32) return many_rows_by_lanes<ByteTiles<B>>(w, rows);
#endif
#if MLXLM_LEVEL == 513
    using Q = Pairs<format, bits>;
    if constexpr (Q::fits) if (rows.type == Dtype::bf16) return many_rows_by_lanes<PairTiles<Q>>(w, rows);
#endif
    using C = Codes<format, bits>;
    QuantizedRows<C> source{w, LaneScales(w, C::per)};
    many_rows<C::per>(source, w.N, w.K, blocks_of(w.K, C::block) * C::block, rows);
  });
}

// Rows of the matrix as numbers, in their own order: an embedding look-up.
void quantized_rows(const QuantizedMatrix& w, const int64_t* which, int64_t count, Dtype type, void* out) {
  by_format(w, [&]<class C>(C) {
    const LaneScales lanes(w, C::per);
    const int blocks = blocks_of(w.K, C::block), padded = padded_groups(w);
    const size_t buffer_size = sizeof(float) * (2 * padded + blocks * C::block);
    parallel_for(int((count + 15) / 16), [&](int task) {
      float* scales = (float*)scratch(kRows, buffer_size);
      float *biases = scales + padded, *numbers = biases + padded;
      for (int64_t i = task * 16; i < lesser(count, int64_t(task) * 16 + 16); i++) {
        read_scales(w.scale_type, w.scales, which[i] * w.groups(), w.groups(), scales);
        if (w.biases) read_scales(w.scale_type, w.biases, which[i] * w.groups(), w.groups(), biases);
        dequantize_blocks<C>(w, lanes, scales, w.biases ? biases : nullptr, which[i], 0, blocks, numbers);
        by_type(type, [&]<class T>(T*) {
          T* row = (T*)out + i * w.K;
          for (int k = 0; k < w.K; k++) {
            const int within = k % C::block;
            put(row + k, numbers[k - within + within % C::per * W + within / C::per]);
          }
        });
      }
    });
  });
}

}  // namespace
