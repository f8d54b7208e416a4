// Attention for a few queries (decoding): keys and values are read in place, once for all queries of a head's group.
#pragma once
#include "attention_mask.h"

namespace {

constexpr int FEWEST_KEYS = 256;  // a part of the keys that is worth a task of its own

// A part of the keys' answer for one query: values weighted by e^(score - top), and the weights' sum.
struct Partial {
  float top, weight;
  float* values;
};

// scores[q * stride + s - begin] = scale * q . k for the group's queries; `q` is f32, one after another.
template <class T>
inline void score_keys(const Attention& a, const T* k, const float* q, int queries, int begin, int end, float* scores,
                       int stride) {
  const int whole = a.D / W * W;
  for (int s = begin; s < end; s++) {
    const T* key = k + s * a.k_stride[2];
    int i = 0;
    for (; i + 4 <= queries; i += 4) {
      const float* qi = q + i * a.D;
      V t[4] = {};
      for (int d = 0; d < whole; d += W) {
        const V kd = load(key + d);
        UNROLL for (int j = 0; j < 4; j++) t[j] = fma(load(qi + j * a.D + d), kd, t[j]);
      }
      UNROLL for (int j = 0; j < 4; j++) scores[(i + j) * stride + s - begin] = sum(t[j]);
    }
    for (; i < queries; i++) {
      V t{};
      for (int d = 0; d < whole; d += W) t = fma(load(q + i * a.D + d), load(key + d), t);
      scores[i * stride + s - begin] = sum(t);
    }
    for (int d = whole; d < a.D; d++)
      for (i = 0; i < queries; i++) scores[i * stride + s - begin] += q[i * a.D + d] * value(key[d]);
  }
}

// Scores to weights, in place; past `count` they become 0 up to whole vectors.
inline void weigh(float* scores, int count, Partial& p) {
  const int padded = round_up(count, W);
  for (int s = count; s < padded; s++) scores[s] = -__builtin_inff();
  V top = splat(HIDDEN);
  for (int s = 0; s < padded; s += W) top = vmax(load(scores + s), top);
  p.top = largest(top);
  V total{};
  for (int s = 0; s < padded; s += W) {
    V e = vexp(load(scores + s) - p.top);
    store(scores + s, e);
    total += e;
  }
  p.weight = sum(total);
}

template <class T>
inline void add_values(const Attention& a, const T* v, const float* weights, int stride, int queries, int begin, int end,
                       float* out) {
  for (int i = 0; i < queries; i++) {
    const float* w = weights + i * stride;
    int d = 0;
    for (; d + 4 * W <= a.Dv; d += 4 * W) {
      V t[4] = {};
      for (int s = begin; s < end; s++) {
        const T* row = v + s * a.v_stride[2] + d;
        const V one = splat(w[s - begin]);
        UNROLL for (int j = 0; j < 4; j++) t[j] = fma(one, load(row + j * W), t[j]);
      }
      UNROLL for (int j = 0; j < 4; j++) store(out + i * a.Dv + d + j * W, t[j]);
    }
    for (; d < a.Dv; d += W) {
      const int n = lesser(W, a.Dv - d);
      V t{};
      for (int s = begin; s < end; s++) {
        const T* row = v + s * a.v_stride[2] + d;
        t = fma(splat(w[s - begin]), n == W ? load(row) : load_n(row, n), t);
      }
      store_n(out + i * a.Dv + d, t, n);
    }
  }
}

// One part of the keys for the queries (r, l) of head group `hk`: query i is head hk * group + i / L, position i % L.
template <class T>
inline void attend_part(const Attention& a, int b, int hk, int begin, int end, Partial* out) {
  const int group = a.Hq / a.Hk, queries = group * a.L, stride = round_up(end - begin, W);
  float* q = (float*)scratch(kScores, sizeof(float) * (queries * (a.D + stride) + W));
  float* scores = q + queries * a.D;
  for (int i = 0; i < queries; i++) {
    const T* from = (const T*)a.q + b * a.q_stride[0] + (hk * group + i / a.L) * a.q_stride[1] + i % a.L * a.q_stride[2];
    for (int d = 0; d < a.D; d++) q[i * a.D + d] = a.scale * value(from[d]);
  }
  const T* k = (const T*)a.k + b * a.k_stride[0] + hk * a.k_stride[1];
  const T* v = (const T*)a.v + b * a.v_stride[0] + hk * a.v_stride[1];
  score_keys(a, k, q, queries, begin, end, scores, stride);
  for (int i = 0; i < queries; i++) {
    float* row = scores + i * stride;
    if (has_array(a)) apply_mask(a, b, hk * group + i / a.L, i % a.L, begin, end - begin, row, 1);
    for (int s = greater(begin, visible(a, i % a.L)); s < end; s++) row[s - begin] = -__builtin_inff();
    weigh(row, end - begin, out[i]);
  }
  add_values(a, v, scores, stride, queries, begin, end, out[0].values);
}

template <class T>
inline void merge_parts(const Attention& a, int b, int h, int l, const Partial* parts, int count, int apart) {
  float top = a.sinks ? a.sinks[h] : parts[0].top, weight = 0;
  for (int p = 0; p < count; p++) top = parts[p * apart].top > top ? parts[p * apart].top : top;
  float* share = (float*)scratch(kOther, sizeof(float) * (count + W));
  for (int p = 0; p < count; p++) {
    share[p] = vexp(splat(parts[p * apart].top - top))[0];
    weight += share[p] * parts[p * apart].weight;
  }
  if (a.sinks) weight += vexp(splat(a.sinks[h] - top))[0];
  T* out = (T*)a.out + ((int64_t(b) * a.L + l) * a.Hq + h) * a.Dv;
  for (int d = 0; d < a.Dv; d++) {
    float total = 0;
    for (int p = 0; p < count; p++) total += share[p] * parts[p * apart].values[d];
    put(out + d, total / weight);
  }
}

template <class T>
inline void attend_few(const Attention& a) {
  const int queries = a.Hq / a.Hk * a.L, heads = a.B * a.Hk;
  const int parts = greater(1, lesser((2 * pool_size() + heads - 1) / heads, a.S / FEWEST_KEYS));
  Partial* partials = (Partial*)scratch(kTile, (sizeof(Partial) + sizeof(float) * a.Dv) * heads * parts * queries);
  float* values = (float*)(partials + size_t(heads) * parts * queries);
  for (int i = 0; i < heads * parts * queries; i++) partials[i].values = values + size_t(i) * a.Dv;
  const auto task = [&](int t) {
    const int part = t % parts, head = t / parts;
    const int begin = int(int64_t(a.S) * part / parts), end = int(int64_t(a.S) * (part + 1) / parts);
    attend_part<T>(a, head / a.Hk, head % a.Hk, begin, end, partials + size_t(t) * queries);
  };
  if (int64_t(heads) * queries * a.S * a.D < 65536) for (int t = 0; t < heads * parts; t++) task(t);
  else parallel_for(heads * parts, task);
  for (int head = 0; head < heads; head++)
    for (int i = 0; i < queries; i++)
      merge_parts<T>(a, head / a.Hk, head % a.Hk * (a.Hq / a.Hk) + i / a.L, i % a.L,
                     partials + (size_t(head) * parts) * queries + i, parts, queries);
}

}  // namespace
