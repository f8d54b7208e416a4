// Scores and weighted sums for up to four queries at a time over rows that are read once, in place: what decoding does.
#pragma once
#include "attention_mask.h"
#include "attention_rows.h"
#include "pairs.h"

namespace {

constexpr int TWO = 2 * W;      // numbers that are read at a time
constexpr int ROWS_AHEAD = 16;  // rows that are asked for before their turn

// Two vectors of a row, in the order that costs least: for bf16 the even numbers, then the odd ones.
template <class T>
struct Halves {
  V even, odd;
  static Halves load(const T* p) { return {::load(p), ::load(p + W)}; }
  static Halves load(const T* p, int n) {
    return {load_n(p, lesser(n, W)), n > W ? load_n(p + W, n - W) : V{}};
  }
  void store(float* p) const { ::store(p, even), ::store(p + W, odd); }
  static Halves of(const float* p) { return {::load(p), ::load(p + W)}; }
};

template <int... lane>
inline V mixed(V a, V b, int from, std::integer_sequence<int, lane...>) {
  return from ? __builtin_shufflevector(a, b, (lane % 2 ? W + W / 2 + lane / 2 : W / 2 + lane / 2)...)
              : __builtin_shufflevector(a, b, (lane % 2 ? W + lane / 2 : lane / 2)...);
}
template <int odd, int... lane>
inline V every_other(V a, V b, std::integer_sequence<int, lane...>) {
  return __builtin_shufflevector(a, b, (2 * lane + odd)...);
}

template <>
struct Halves<bf16> {
  V even, odd;
  static Halves load(const bf16* p) {
    U u;
    __builtin_memcpy(&u, p, sizeof u);
    return {(V)(u << 16), (V)(u & 0xffff0000)};
  }
  static Halves load(const bf16* p, int n) {
#if MLXLM_LEVEL >= 512
    const U u = (U)_mm512_maskz_loadu_epi16(__mmask32((uint64_t(1) << n) - 1), p);
    return {(V)(u << 16), (V)(u & 0xffff0000)};
#else
    bf16 whole[TWO] = {};
    for (int i = 0; i < n; i++) whole[i] = p[i];
    return load(whole);
#endif
  }
  void store(float* p) const {
    constexpr std::make_integer_sequence<int, W> lanes;
    ::store(p, mixed(even, odd, 0, lanes)), ::store(p + W, mixed(even, odd, 1, lanes));
  }
  static Halves of(const float* p) {
    constexpr std::make_integer_sequence<int, W> lanes;
    const V a = ::load(p), b = ::load(p + W);
    return {every_other<0>(a, b, lanes), every_other<1>(a, b, lanes)};
  }
};

// How numbers of a query and of a key are held and multiplied, TWO at a time.
template <class T>
struct Dot {
  using Number = float;
  using Piece = Halves<T>;
  static Piece query(const float* p) { return {load(p), load(p + W)}; }
  static Piece row(const T* p) { return Piece::load(p); }
  static Piece row(const T* p, int n) { return Piece::load(p, n); }
  static V add(const Piece& q, const Piece& k, V t) { return fma(q.odd, k.odd, fma(q.even, k.even, t)); }
  // D numbers, and zeros up to whole pieces.
  template <class Q>
  static void fill(const Q* from, int D, float* to) {
    for (int d = 0; d < D; d += TWO) {
      float some[TWO] = {};
      for (int i = 0; i < lesser(TWO, D - d); i++) some[i] = value(from[d + i]);
      const Piece p = Piece::of(some);
      ::store(to + d, p.even), ::store(to + d + W, p.odd);
    }
  }
};

#if MLXLM_LEVEL == 513
template <>
struct Dot<bf16> {
  using Number = bf16;
  using Piece = P;
  static P query(const bf16* p) { return load_pairs(p); }
  static P row(const bf16* p) { return load_pairs(p); }
  static P row(const bf16* p, int n) { return (P)_mm512_maskz_loadu_epi16(__mmask32((uint64_t(1) << n) - 1), p); }
  static V add(P q, P k, V t) { return multiply_pairs(q, k, t); }
  static void fill(const bf16* from, int D, bf16* to) {
    for (int d = 0; d < round_up(D, TWO); d++) to[d] = d < D ? from[d] : bf16{0};
  }
};
#endif

template <int step, int... lane>
inline V folded(V a, V b, std::integer_sequence<int, lane...>) {
  const V kept = __builtin_shufflevector(a, b, (lane & step ? W + lane : lane)...);
  const V moved = __builtin_shufflevector(a, b, (lane & step ? W + lane - step : lane + step)...);
  return kept + moved;
}
// A vector whose lane i is the sum of v[i], for W vectors, which it uses up.
template <int step = W / 2>
inline V sums(V* v) {
  UNROLL for (int i = 0; i < step; i++) v[i] = folded<step>(v[i], v[i + step], std::make_integer_sequence<int, W>());
  if constexpr (step > 1) return sums<step / 2>(v);
  else return v[0];
}

template <class T>
inline void ask_for(const T* row, int D) {
  for (int d = 0; d < D; d += 64 / int(sizeof(T))) __builtin_prefetch(row + d);
}

// scores[s * N + i] = query i . row s, for whole vectors of scores; `q` has N queries of `size` numbers.
template <int N, class T>
inline void score_rows(const RowsOf<T>& rows, int D, const typename Dot<T>::Number* q, int size, float scale, float* scores) {
  constexpr int each = W / N;
  const int whole = D / TWO * TWO;
  for (int s = 0; s < rows.count; s += each) {
    const T* row[each];
    UNROLL for (int j = 0; j < each; j++) row[j] = rows.row(s + j);
    for (int j = 0; j < each; j++) ask_for(row[j] + ROWS_AHEAD * rows.stride, D);
    V t[W] = {};
    const auto add = [&](int d, auto&& piece_of) {
      typename Dot<T>::Piece query[N];
      UNROLL for (int i = 0; i < N; i++) query[i] = Dot<T>::query(q + i * size + d);
      UNROLL for (int j = 0; j < each; j++) {
        const typename Dot<T>::Piece key = piece_of(row[j] + d);
        UNROLL for (int i = 0; i < N; i++) t[j * N + i] = Dot<T>::add(query[i], key, t[j * N + i]);
      }
    };
    for (int d = 0; d < whole; d += TWO) add(d, [](const T* p) { return Dot<T>::row(p); });
    if (whole < D) add(whole, [&](const T* p) { return Dot<T>::row(p, D - whole); });
    store(scores + s * N, sums(t) * scale);
  }
}

// out[i] += sum over rows of weights[s * N + i] * row s, for numbers d .. d + n of `count` pieces.
template <int N, int pieces, class T>
inline void sum_pieces(const RowsOf<T>& rows, int d, int n, const float* weights, float* const* out) {
  V t[N][pieces][2] = {};
  const auto add = [&](auto&& piece_of) {
    for (int s = 0; s < rows.count; s++) {
      const T* row = rows.data + s * rows.stride + d;
      if constexpr (pieces * TWO * sizeof(T) >= 64) __builtin_prefetch(row + ROWS_AHEAD * rows.stride);
      if constexpr (pieces * TWO * sizeof(T) > 64) __builtin_prefetch(row + ROWS_AHEAD * rows.stride + 64 / sizeof(T));
      Halves<T> piece[pieces];
      UNROLL for (int j = 0; j < pieces; j++) piece[j] = piece_of(row + j * TWO);
      UNROLL for (int i = 0; i < N; i++) {
        const V weight = splat(weights[s * N + i]);
        UNROLL for (int j = 0; j < pieces; j++) {
          t[i][j][0] = fma(weight, piece[j].even, t[i][j][0]);
          t[i][j][1] = fma(weight, piece[j].odd, t[i][j][1]);
        }
      }
    }
  };
  if (n == pieces * TWO) add([](const T* p) { return Halves<T>::load(p); });
  else add([&](const T* p) { return Halves<T>::load(p, n); });
  UNROLL for (int i = 0; i < N; i++)
    UNROLL for (int j = 0; j < pieces; j++) {
      float some[TWO];
      Halves<T>{t[i][j][0], t[i][j][1]}.store(some);
      for (int k = 0; out[i] && k < lesser(TWO, n - j * TWO); k++) out[i][d + j * TWO + k] += some[k];
    }
}

// out[i] += sum over rows of weights[s * N + i] * row s; null for a query that isn't there.
template <int N, class T>
inline void sum_rows(const RowsOf<T>& rows, int D, const float* weights, float* const* out) {
  constexpr int pieces = W == 16 ? 2 : 1;
  int d = 0;
  for (; d + pieces * TWO <= D; d += pieces * TWO) sum_pieces<N, pieces>(rows, d, pieces * TWO, weights, out);
  for (; d < D; d += TWO) sum_pieces<N, 1>(rows, d, lesser(TWO, D - d), weights, out);
}

// The lanes that belong to one query are N apart: each gets what `join` makes of all of them.
template <int N, int step, class F, int... lane>
inline V joined(V v, F&& join, std::integer_sequence<int, lane...> lanes) {
  if constexpr (step < N) return v;
  else return joined<N, step / 2>(join(v, __builtin_shufflevector(v, v, (lane ^ step)...)), join, lanes);
}

// Scores of N queries to weights e^(score - top), in place; past `count` rows they become 0.
template <int N>
inline void weigh(float* scores, int count, float* tops, float* weights) {
  constexpr std::make_integer_sequence<int, W> lanes;
  const int padded = round_up(count * N, W);
  for (int s = count * N; s < padded; s++) scores[s] = -__builtin_inff();
  V top = splat(HIDDEN), total{};
  for (int s = 0; s < padded; s += W) top = vmax(load(scores + s), top);
  top = joined<N, W / 2>(top, [](V a, V b) { return vmax(a, b); }, lanes);
  for (int s = 0; s < padded; s += W) {
    const V e = vexp(load(scores + s) - top);
    store(scores + s, e);
    total += e;
  }
  total = joined<N, W / 2>(total, [](V a, V b) { return a + b; }, lanes);
  for (int i = 0; i < N; i++) tops[i] = top[i], weights[i] = total[i];
}

}  // namespace
