// Attention for many queries (prefill): the queries of a head's group fill the lanes, keys pass by in blocks, and the
// softmax is kept up to date as they do, so that no matrix of scores exists.
#pragma once
#include "attention_mask.h"
#include "attention_rows.h"
#include "tile.h"
#include "tile_pairs.h"

namespace {

constexpr int KEYS = 64;  // keys of a block; a multiple of no ROWS: the last tile repeats its last row

// The lanes' queries: lane i is query position (start + i) / group, head hk * group + (start + i) % group, so that a
// tile's positions lie close together and causal tiles end early.
struct Tile {
  int b, hk, start, used;
};

struct TileBuffers {
  float *queries, *scores, *values, *keys, *alpha, *top, *weight;

  TileBuffers(const Attention& a) {
    const size_t depth = greater(a.D, a.Dv), rows = KEYS + ROWS, out = round_up(a.Dv, ROWS) + ROWS;
    float* p = (float*)scratch(kScores, sizeof(float) * (WIDE * (a.D + rows + out + 3) + rows * (depth + ROWS)));
    queries = p, p += WIDE * a.D;
    scores = p, p += WIDE * rows;
    values = p, p += WIDE * out;
    alpha = p, p += WIDE;
    top = p, p += WIDE;
    weight = p, p += WIDE;
    keys = p;
  }
};

// The query of a lane, position and head as `Tile` says.
template <class T>
inline const T* query_of(const Attention& a, const Tile& t, int lane) {
  const int group = a.Hq / a.Hk, l = (t.start + lane) / group, h = t.hk * group + (t.start + lane) % group;
  return (const T*)a.q + t.b * a.q_stride[0] + h * a.q_stride[1] + l * a.q_stride[2];
}

// out[i][lane] = vector_of(lane, i, how many)[0..], for `count` numbers of each lane; 0 for lanes that aren't used.
template <class F>
inline void to_lanes(const Tile& t, int count, float* out, F&& vector_of) {
  for (int c = 0; c < WIDE; c += W)
    for (int d = 0; d < count; d += W) {
      const int n = lesser(W, count - d);
      V tile[W];
      UNROLL for (int i = 0; i < W; i++) tile[i] = c + i < t.used ? vector_of(c + i, d, n) : V{};
      transpose(tile);
      for (int i = 0; i < n; i++) store(out + (d + i) * WIDE + c, tile[i]);
    }
}

template <class T>
inline void load_queries(const Attention& a, const Tile& t, float* out) {
  to_lanes(t, a.D, out, [&](int lane, int d, int n) {
    const T* q = query_of<T>(a, t, lane) + d;
    return (n == W ? load(q) : load_n(q, n)) * a.scale;
  });
}

// The result's rows, from values[d][lane].
template <class T>
inline void write_values(const Attention& a, const Tile& t, const TileBuffers& f) {
  const int group = a.Hq / a.Hk;
  for (int c = 0; c < t.used; c += W) {
    const V inverse = 1.f / load(f.weight + c);
    for (int d = 0; d < a.Dv; d += W) {
      const int n = lesser(W, a.Dv - d);
      V tile[W];
      UNROLL for (int i = 0; i < W; i++) tile[i] = i < n ? load(f.values + (d + i) * WIDE + c) * inverse : V{};
      transpose(tile);
      for (int i = 0; i < lesser(W, t.used - c); i++) {
        const int l = (t.start + c + i) / group, h = t.hk * group + (t.start + c + i) % group;
        T* out = (T*)a.out + ((int64_t(t.b) * a.L + l) * a.Hq + h) * a.Dv + d;
        if (n == W) store(out, tile[i]);
        else store_n(out, tile[i], n);
      }
    }
  }
}

// scores[s][lane] = key s . query, over `count` keys; queries as `load_queries` left them.
template <class Rows>
inline void score_block(const Attention& a, const Rows& keys, int first, int count, const TileBuffers& f) {
  const RowsOf<float> rows = keys.floats(first, count, a.D, f.keys);
  for (int r = 0; r < count; r += ROWS) {
    const float* key[ROWS];
    for (int i = 0; i < ROWS; i++) key[i] = rows.row(r + i);
    multiply_tile<2>(key, f.queries, a.D, f.scores + r * WIDE, WIDE, true);
  }
}

#if MLXLM_LEVEL == 513
// The same with pairs of bf16 numbers, in place, for rows of whole pairs.
inline void load_query_pairs(const Attention& a, const Tile& t, float* out) {
  to_lanes(t, a.D / 2, out, [&](int lane, int d, int n) {
    return (V)_mm512_maskz_loadu_epi32(first_lanes(n), query_of<bf16>(a, t, lane) + 2 * d);
  });
}

constexpr int PAIR_ROWS = 8;  // divides the usual numbers of keys and widths, and still hides the products' latency

inline void score_pairs(const Attention& a, const InPlace<bf16>& keys, int first, int count, const TileBuffers& f) {
  const RowsOf<bf16> rows{keys.data + first * keys.stride, keys.stride, count};
  for (int r = 0; r < count; r += PAIR_ROWS) {
    V acc[PAIR_ROWS][2] = {};
    const bf16* key[PAIR_ROWS];
    UNROLL for (int i = 0; i < PAIR_ROWS; i++) key[i] = rows.row(r + i);
    const uint32_t* panel = (const uint32_t*)f.queries;
    for (int d = 0; d < a.D; d += 2, panel += WIDE) {
      const P x0 = load_pairs(panel), x1 = load_pairs(panel + W);
      UNROLL for (int i = 0; i < PAIR_ROWS; i++) {
        const P one = splat_pair((const uint32_t*)(key[i] + d));
        acc[i][0] = multiply_pairs(one, x0, acc[i][0]);
        acc[i][1] = multiply_pairs(one, x1, acc[i][1]);
      }
    }
    UNROLL for (int i = 0; i < PAIR_ROWS; i++)
      UNROLL for (int c = 0; c < 2; c++) store(f.scores + (r + i) * WIDE + c * W, acc[i][c] * a.scale);
  }
}
#endif

// Queries and scores by pairs where the rows allow it, else by f32.
template <class T, class Rows>
inline bool begin_tile(const Attention& a, const Tile& t, const Rows&, const TileBuffers& f) {
#if MLXLM_LEVEL == 513
  if constexpr (std::is_same_v<Rows, InPlace<bf16>>)
    if (a.D % 2 == 0) return load_query_pairs(a, t, f.queries), true;
#endif
  return load_queries<T>(a, t, f.queries), false;
}
template <class Rows>
inline void score_any(const Attention& a, const Rows& keys, int first, int count, const TileBuffers& f, bool pairs) {
#if MLXLM_LEVEL == 513
  if constexpr (std::is_same_v<Rows, InPlace<bf16>>)
    if (pairs) return score_pairs(a, keys, first, count, f);
#endif
  score_block(a, keys, first, count, f);
}

inline void mask_scores(const Attention& a, const Tile& t, int s0, int count, float* scores) {
  const int group = a.Hq / a.Hk;
  if (a.mask.kind == Mask::causal && s0 + count <= visible(a, t.start / group)) return;
  for (int i = 0; i < t.used; i++) {
    const int l = (t.start + i) / group, h = t.hk * group + (t.start + i) % group;
    if (has_array(a)) apply_mask(a, t.b, h, l, s0, count, scores + i, WIDE);
    else
      for (int s = greater(0, visible(a, l) - s0); s < count; s++) scores[s * WIDE + i] = -__builtin_inff();
  }
}

// Scores to weights under the new top; `alpha` is what the old values and weights shrink by.
inline void update_softmax(const TileBuffers& f, int count) {
  for (int c = 0; c < WIDE; c += W) {
    const V before = load(f.top + c);
    V top = before;
    for (int s = 0; s < count; s++) top = vmax(load(f.scores + s * WIDE + c), top);
    const V shrink = vexp(before - top);
    V total = load(f.weight + c) * shrink;
    for (int s = 0; s < count; s++) {
      V e = vexp(load(f.scores + s * WIDE + c) - top);
      store(f.scores + s * WIDE + c, e);
      total += e;
    }
    store(f.top + c, top);
    store(f.weight + c, total);
    store(f.alpha + c, shrink);
  }
}

// values[d][lane] = values[d][lane] * alpha[lane] + sum over s of v[s][d] * weight[s][lane]
inline void add_block(const Attention& a, const TileBuffers& f, const RowsOf<float>& v) {
  constexpr int N = 2;
  for (int d = 0; d < a.Dv; d += ROWS) {
    V acc[ROWS][N];
    UNROLL for (int r = 0; r < ROWS; r++)
      UNROLL for (int c = 0; c < N; c++)
        acc[r][c] = load(f.values + (d + r) * WIDE + c * W) * load(f.alpha + c * W);
    const bool whole = d + ROWS <= a.Dv;
    float last[ROWS] = {};
    for (int s = 0; s < v.count; s++) {
      const float* w = f.scores + s * WIDE;
      const float* row = v.data + s * v.stride + d;
      if (!whole) for (int r = 0; r < a.Dv - d; r++) last[r] = row[r];
      const V w0 = load(w), w1 = load(w + W);
      UNROLL for (int r = 0; r < ROWS; r++) {
        const V one = splat(whole ? row[r] : last[r]);
        acc[r][0] = fma(one, w0, acc[r][0]);
        acc[r][1] = fma(one, w1, acc[r][1]);
      }
    }
    UNROLL for (int r = 0; r < ROWS; r++)
      UNROLL for (int c = 0; c < N; c++) store(f.values + (d + r) * WIDE + c * W, acc[r][c]);
  }
}

#if MLXLM_LEVEL == 513
// Numbers i of a and of b side by side, for i in the lower or the upper half.
inline P side_by_side(P a, P b, bool upper) {
  alignas(64) uint16_t lane[32];
  for (int i = 0; i < 32; i++) lane[i] = uint16_t(i / 2 + (upper ? 16 : 0) + (i % 2 ? 32 : 0));
  return (P)_mm512_permutex2var_epi16((__m512i)a, _mm512_load_si512(lane), (__m512i)b);
}

// The weights of keys 2 s and 2 s + 1 as pairs, in the place of the former's; without a partner a key is paired with 0.
inline void pair_weights(float* scores, int count) {
  for (int s = 0; s < count; s += 2)
    for (int c = 0; c < WIDE; c += W) {
      float* first = scores + s * WIDE + c;
      const V second = s + 1 < count ? load(first + WIDE) : V{};
      const P both = (P)_mm512_cvtne2ps_pbh((__m512)second, (__m512)load(first));
      _mm512_storeu_si512(first, (__m512i)side_by_side(both, (P)_mm512_shuffle_i64x2((__m512i)both, (__m512i)both, 0xee), false));
    }
}

// Rows 2 s and 2 s + 1 of v as pairs, `width` (a multiple of PAIR_ROWS) pairs a row; 0 past the end.
inline void pair_values(const RowsOf<bf16>& v, int D, int width, uint32_t* out) {
  for (int s = 0; s < v.count; s += 2)
    for (int d = 0; d < width; d += 2 * W) {
      const __mmask32 some = __mmask32((uint64_t(1) << lesser(2 * W, greater(D - d, 0))) - 1);
      const bf16* row = v.data + s * v.stride + d;
      const P a = (P)_mm512_maskz_loadu_epi16(some, row);
      const P b = s + 1 < v.count ? (P)_mm512_maskz_loadu_epi16(some, row + v.stride) : P{};
      uint32_t* to = out + s / 2 * width + d;
      _mm512_mask_storeu_epi32(to, first_lanes(lesser(W, width - d)), (__m512i)side_by_side(a, b, false));
      if (width - d > W)
        _mm512_mask_storeu_epi32(to + W, first_lanes(lesser(W, width - d - W)), (__m512i)side_by_side(a, b, true));
    }
}

// As `add_block`, by pairs of keys: the weights are rounded to bf16, as results of this type are.
inline void add_pairs(const Attention& a, const TileBuffers& f, const RowsOf<bf16>& v) {
  const int width = round_up(a.Dv, PAIR_ROWS);
  uint32_t* pairs = (uint32_t*)f.keys;
  pair_weights(f.scores, v.count);
  pair_values(v, a.Dv, width, pairs);
  for (int d = 0; d < a.Dv; d += PAIR_ROWS) {
    V acc[PAIR_ROWS][2];
    UNROLL for (int r = 0; r < PAIR_ROWS; r++)
      UNROLL for (int c = 0; c < 2; c++)
        acc[r][c] = load(f.values + (d + r) * WIDE + c * W) * load(f.alpha + c * W);
    for (int s = 0; s < v.count; s += 2) {
      const P w0 = load_pairs((const bf16*)(f.scores + s * WIDE)), w1 = load_pairs((const bf16*)(f.scores + s * WIDE + W));
      const uint32_t* row = pairs + s / 2 * width + d;
      UNROLL for (int r = 0; r < PAIR_ROWS; r++) {
        const P one = splat_pair(row + r);
        acc[r][0] = multiply_pairs(one, w0, acc[r][0]);
        acc[r][1] = multiply_pairs(one, w1, acc[r][1]);
      }
    }
    UNROLL for (int r = 0; r < PAIR_ROWS; r++)
      UNROLL for (int c = 0; c < 2; c++) store(f.values + (d + r) * WIDE + c * W, acc[r][c]);
  }
}
#endif

template <class Rows>
inline void add_any(const Attention& a, const Rows& values, int first, int count, const TileBuffers& f) {
#if MLXLM_LEVEL == 513
  if constexpr (std::is_same_v<Rows, InPlace<bf16>>)
    return add_pairs(a, f, {values.data + first * values.stride, values.stride, count});
#endif
  add_block(a, f, values.floats(first, count, a.Dv, f.keys));
}

template <class T, class Rows>
inline void attend_tile(const Attention& a, const Tile& t) {
  const TileBuffers f(a);
  const int group = a.Hq / a.Hk, rows = round_up(a.Dv, ROWS);
  const Rows keys = Rows::of(a, a.k, a.k_stride, a.k_groups, t.b, t.hk, a.D);
  const Rows values = Rows::of(a, a.v, a.v_stride, a.v_groups, t.b, t.hk, a.Dv);
  const bool pairs = begin_tile<T>(a, t, keys, f);
  for (int i = 0; i < WIDE; i++) {
    const int h = t.hk * group + (t.start + i) % group;
    f.top[i] = a.sinks ? a.sinks[h] : HIDDEN;
    f.weight[i] = a.sinks ? 1.f : 0.f;
  }
  for (int i = 0; i < rows * WIDE; i++) f.values[i] = 0;
  const int end = visible(a, (t.start + t.used - 1) / group);
  for (int s = 0; s < end; s += KEYS) {
    const int count = lesser(KEYS, end - s);
    score_any(a, keys, s, count, f, pairs);
    if (a.cap != 0) squash(a.cap, f.scores, count * WIDE);
    if (a.mask.kind != Mask::none) mask_scores(a, t, s, count, f.scores);
    update_softmax(f, count);
    add_any(a, values, s, count, f);
  }
  write_values<T>(a, t, f);
}

template <class T, class Rows>
inline void attend_many(const Attention& a) {
  const int lanes = a.Hq / a.Hk * a.L, tiles = (lanes + WIDE - 1) / WIDE, heads = a.B * a.Hk;
  parallel_for(heads * tiles, [&](int i) {
    // The last queries see the most keys: the longest tasks first, so that threads end together.
    const int tile = tiles - 1 - i / heads, head = i % heads;
    attend_tile<T, Rows>(a, {head / a.Hk, head % a.Hk, tile * WIDE, lesser(WIDE, lanes - tile * WIDE)});
  });
}

}  // namespace
