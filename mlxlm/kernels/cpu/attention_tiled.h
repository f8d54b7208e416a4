// Attention for many queries (prefill): the queries of a head's group fill the lanes, keys pass by in blocks, and the
// softmax is kept up to date as they do, so that no matrix of scores exists.
#pragma once
#include "attention_mask.h"
#include "tile.h"

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

template <class T>
inline void load_queries(const Attention& a, const Tile& t, float* out) {
  const int group = a.Hq / a.Hk;
  for (int i = 0; i < WIDE; i++) {
    if (i >= t.used) {
      for (int d = 0; d < a.D; d++) out[d * WIDE + i] = 0;
      continue;
    }
    const int l = (t.start + i) / group, h = t.hk * group + (t.start + i) % group;
    const T* q = (const T*)a.q + t.b * a.q_stride[0] + h * a.q_stride[1] + l * a.q_stride[2];
    for (int d = 0; d < a.D; d++) out[d * WIDE + i] = a.scale * value(q[d]);
  }
}

// Rows of keys as f32: in place where they are f32 already, else widened into `buffer`.
template <class T>
inline void key_rows(const T* k, int64_t stride, int count, int D, float* buffer, const float** out) {
  for (int s = 0; s < count; s++) {
    if constexpr (sizeof(T) == 4) {
      out[s] = (const float*)(k + s * stride);
    } else {
      widen(k + s * stride, D, buffer + s * D);
      out[s] = buffer + s * D;
    }
  }
  for (int s = count; s < round_up(count, ROWS); s++) out[s] = out[count - 1];
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
template <class T>
inline void add_block(const Attention& a, const TileBuffers& f, const T* v, int count) {
  constexpr int N = 2;
  for (int d = 0; d < a.Dv; d += ROWS) {
    V acc[ROWS][N];
    UNROLL for (int r = 0; r < ROWS; r++)
      UNROLL for (int c = 0; c < N; c++)
        acc[r][c] = load(f.values + (d + r) * WIDE + c * W) * load(f.alpha + c * W);
    const bool whole = d + ROWS <= a.Dv;
    float last[ROWS] = {};
    for (int s = 0; s < count; s++) {
      const float* w = f.scores + s * WIDE;
      const T* row = v + s * a.v_stride[2] + d;
      if (!whole) for (int r = 0; r < a.Dv - d; r++) last[r] = value(row[r]);
      const V w0 = load(w), w1 = load(w + W);
      UNROLL for (int r = 0; r < ROWS; r++) {
        const V one = splat(whole ? value(row[r]) : last[r]);
        acc[r][0] = fma(one, w0, acc[r][0]);
        acc[r][1] = fma(one, w1, acc[r][1]);
      }
    }
    UNROLL for (int r = 0; r < ROWS; r++)
      UNROLL for (int c = 0; c < N; c++) store(f.values + (d + r) * WIDE + c * W, acc[r][c]);
  }
}

template <class T>
inline void attend_tile(const Attention& a, const Tile& t) {
  const TileBuffers f(a);
  const int group = a.Hq / a.Hk, rows = round_up(a.Dv, ROWS);
  load_queries<T>(a, t, f.queries);
  for (int i = 0; i < WIDE; i++) {
    const int h = t.hk * group + (t.start + i) % group;
    f.top[i] = a.sinks ? a.sinks[h] : HIDDEN;
    f.weight[i] = a.sinks ? 1.f : 0.f;
  }
  for (int i = 0; i < rows * WIDE; i++) f.values[i] = 0;
  const T* k = (const T*)a.k + t.b * a.k_stride[0] + t.hk * a.k_stride[1];
  const T* v = (const T*)a.v + t.b * a.v_stride[0] + t.hk * a.v_stride[1];
  const int end = visible(a, (t.start + t.used - 1) / group);
  for (int s = 0; s < end; s += KEYS) {
    const int count = lesser(KEYS, end - s);
    const float* key[KEYS + ROWS];
    key_rows(k + s * a.k_stride[2], a.k_stride[2], count, a.D, f.keys, key);
    for (int r = 0; r < count; r += ROWS) multiply_tile<2>(key + r, f.queries, a.D, f.scores + r * WIDE, WIDE, true);
    if (a.mask.kind != Mask::none) mask_scores(a, t, s, count, f.scores);
    update_softmax(f, count);
    const T* from = v + s * a.v_stride[2];
    if constexpr (sizeof(T) == 4) add_block(a, f, from, count);
    else {
      // Each value is used in turn by every tile of lanes: widened once a block, not once a use.
      for (int r = 0; r < count; r++) widen(from + r * a.v_stride[2], a.Dv, f.keys + r * a.Dv);
      Attention widened = a;
      widened.v_stride[2] = a.Dv;
      add_block(widened, f, (const float*)f.keys, count);
    }
  }
  for (int i = 0; i < t.used; i++) {
    const int l = (t.start + i) / group, h = t.hk * group + (t.start + i) % group;
    T* out = (T*)a.out + ((int64_t(t.b) * a.L + l) * a.Hq + h) * a.Dv;
    const float inverse = 1.f / f.weight[i];
    for (int d = 0; d < a.Dv; d++) put(out + d, f.values[d * WIDE + i] * inverse);
  }
}

template <class T>
inline void attend_many(const Attention& a) {
  const int lanes = a.Hq / a.Hk * a.L, tiles = (lanes + WIDE - 1) / WIDE, heads = a.B * a.Hk;
  parallel_for(heads * tiles, [&](int i) {
    // The last queries see the most keys: the longest tasks first, so that threads end together.
    const int tile = tiles - 1 - i / heads, head = i % heads;
    attend_tile<T>(a, {head / a.Hk, head % a.Hk, tile * WIDE, lesser(WIDE, lanes - tile * WIDE)});
  });
}

}  // namespace
