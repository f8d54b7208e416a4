// Attention for a few queries (decoding): keys and values are read in place, once for all queries of a head's group.
#pragma once
#include "attention_few.h"

namespace {

constexpr int FEWEST_KEYS = 256;  // a part of the keys that is worth a task of its own
constexpr int MOST_KEYS = 1024;   // a part whose values are still near when they are read again

// A part of the keys' answer for one query: values weighted by e^(score - top), and the weights' sum.
struct Partial {
  float top, weight;
  float* values;
};

// A part of the keys, for the queries of head group `hk`: query i is head hk * group + i / L, position i % L.
struct KeyRange {
  int b, hk, begin, end;
};

// Queries i .. i + N of a part; `partial` is theirs, as many as there are.
template <int N, class T, class Rows>
inline void attend_queries(const Attention& a, const KeyRange& p, const Rows& keys, const Rows& values, int first, int count,
                           Partial* partial) {
  using K = typename Rows::Number;
  using Number = typename Dot<K>::Number;
  const int group = a.Hq / a.Hk, size = round_up(a.D, TWO), total = p.end - p.begin, padded = round_up(total * N, W);
  float* scores = (float*)scratch(kScores, sizeof(float) * padded + sizeof(Number) * N * size);
  Number* q = (Number*)(scores + padded);
  for (int i = 0; i < N; i++) {
    const int query = first + lesser(i, count - 1), h = p.hk * group + query / a.L;
    Dot<K>::fill((const T*)a.q + p.b * a.q_stride[0] + h * a.q_stride[1] + query % a.L * a.q_stride[2], a.D, q + i * size);
  }
  keys.each(p.begin, p.end, [&](const RowsOf<K>& rows, int from) {
    score_rows<N>(rows, a.D, q, size, a.scale, scores + from * N);
  });
  if (a.cap != 0) squash(a.cap, scores, total * N);
  float tops[N], weights[N], *out[N];
  for (int i = 0; i < N; i++) {
    out[i] = i < count ? partial[i].values : nullptr;
    if (i >= count) continue;
    const int l = (first + i) % a.L, h = p.hk * group + (first + i) / a.L;
    for (int d = 0; d < a.Dv; d++) out[i][d] = 0;
    if (has_array(a)) apply_mask(a, p.b, h, l, p.begin, total, scores + i, N);
    for (int s = greater(0, visible(a, l) - p.begin); s < total; s++) scores[s * N + i] = -__builtin_inff();
  }
  weigh<N>(scores, total, tops, weights);
  for (int i = 0; i < count; i++) partial[i].top = tops[i], partial[i].weight = weights[i];
  values.each(p.begin, p.end, [&](const RowsOf<K>& rows, int from) { sum_rows<N>(rows, a.Dv, scores + from * N, out); });
}

template <class T, class Rows>
inline void attend_part(const Attention& a, const KeyRange& p, Partial* out) {
  const Rows keys = Rows::of(a, a.k, a.k_stride, a.k_groups, p.b, p.hk, a.D);
  const Rows values = Rows::of(a, a.v, a.v_stride, a.v_groups, p.b, p.hk, a.Dv);
  const int queries = a.Hq / a.Hk * a.L;
  for (int i = 0; i < queries; i += 4) {
    const int count = lesser(4, queries - i);
    if (count == 1) attend_queries<1, T>(a, p, keys, values, i, count, out + i);
    else if (count == 2) attend_queries<2, T>(a, p, keys, values, i, count, out + i);
    else attend_queries<4, T>(a, p, keys, values, i, count, out + i);
  }
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
  const float inverse = 1 / weight;
  for (int d = 0; d < a.Dv; d += W) {
    const int n = lesser(W, a.Dv - d);
    V total{};
    for (int p = 0; p < count; p++) total = fma(splat(share[p]), load_n(parts[p * apart].values + d, n), total);
    store_n(out + d, total * inverse, n);
  }
}

template <class T, class Rows>
inline void attend_few(const Attention& a) {
  const int queries = a.Hq / a.Hk * a.L, heads = a.B * a.Hk;
  const int shares = lesser((2 * pool_size() + heads - 1) / heads, a.S / FEWEST_KEYS);
  const int parts = greater(greater(1, shares), (a.S + MOST_KEYS - 1) / MOST_KEYS);
  Partial* partials = (Partial*)scratch(kTile, (sizeof(Partial) + sizeof(float) * a.Dv) * heads * parts * queries);
  float* values = (float*)(partials + size_t(heads) * parts * queries);
  for (int i = 0; i < heads * parts * queries; i++) partials[i].values = values + size_t(i) * a.Dv;
  const auto task = [&](int t) {
    const int part = t % parts, head = t / parts;
    const int begin = int(int64_t(a.S) * part / parts), end = int(int64_t(a.S) * (part + 1) / parts);
    attend_part<T, Rows>(a, {head / a.Hk, head % a.Hk, begin, end}, partials + size_t(t) * queries);
  };
  if (int64_t(heads) * queries * a.S * a.D < 65536) for (int t = 0; t < heads * parts; t++) task(t);
  else parallel_for(heads * parts, task);
  for (int head = 0; head < heads; head++)
    for (int i = 0; i < queries; i++)
      merge_parts<T>(a, head / a.Hk, head % a.Hk * (a.Hq / a.Hk) + i / a.L, i % a.L,
                     partials + (size_t(head) * parts) * queries + i, parts, queries);
}

}  // namespace
