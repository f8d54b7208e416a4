// Quantized weights by a few rows of activations (decoding): each weight is read once, for one matrix or several at once.
#pragma once
#include <new>
#include <type_traits>

#include "pairs.h"
#include "pointwise.h"
#include "streams.h"

namespace {

// ------------------------------------------------------------------------------- how a block is multiplied

// As f32: W lanes of `per` numbers each.
template <class C>
struct AsFloats {
  using X = float;
  static constexpr int per = C::per, block = C::block, block_bytes = C::block_bytes, parts = 1;
  static constexpr bool single = false;  // whether one row at a time is fast enough for memory

  template <class T>
  static inline void arrange(const T* x, int K, X* out) { in_block_order<per>(x, K, out); }

  // sums[m] = the block's codes times x row m, lane by lane. `lanes` is W for a whole block.
  template <int M>
  static ALWAYS_INLINE void multiply(const uint8_t* p, int lanes, const X* x, size_t length, V (&sums)[M]) {
    V codes[C::per];
    if (lanes == W) C::unpack(p, codes);
    else C::unpack(p, lanes, codes);
    UNROLL for (int m = 0; m < M; m++) {
      const float* xm = x + m * length;
      V even = codes[0] * load(xm), odd = codes[1] * load(xm + W);
      UNROLL for (int j = 2; j < C::per; j += 2) {
        even = fma(codes[j], load(xm + j * W), even);
        odd = fma(codes[j + 1], load(xm + (j + 1) * W), odd);
      }
      sums[m] = even + odd;
    }
  }
};

#if MLXLM_LEVEL == 513
// As pairs of bf16; the activations in `Parts` numbers each.
template <class Q, int Parts>
struct AsPairs {
  using X = bf16;
  static constexpr int per = Q::per, block = Q::block, block_bytes = Q::block_bytes, parts = Parts;
  static constexpr bool single = Parts == 1 && Q::wide;

  template <class T>
  static inline void arrange(const T* x, int K, X* out) {
    alignas(64) bf16 high[block], low[block];
    for (int k = 0; k < K; k += block, out += block * parts) {
      const int n = lesser(block, K - k);
      if (n < block) __builtin_memset(high, 0, sizeof high), __builtin_memset(low, 0, sizeof low);
      to_bf16<parts>(x + k, n, high, low);
      in_place(high, out);
      if constexpr (parts == 2) in_place(low, out + block);
    }
  }
  static inline void in_place(const bf16* x, bf16* out) {
    constexpr int half = Q::vectors;
    for (int lane = 0; lane < W; lane++)
      for (int j = 0; j < half; j++) {
        const uint32_t pair = x[lane * per + j].bits | uint32_t(x[lane * per + half + j].bits) << 16;
        __builtin_memcpy(out + j * 2 * W + 2 * lane, &pair, 4);
      }
  }

  template <int M>
  static ALWAYS_INLINE void multiply(const uint8_t* p, int lanes, const X* x, size_t length, V (&sums)[M]) {
    P codes[Q::vectors];
    __m512i words = lanes == W ? Q::words(p) : Q::words(p, lanes);
    asm("" : "+v"(words));  // in a register: else every shift reads it anew
    Q::unpack(words, Q::table(), codes);
    UNROLL for (int m = 0; m < M; m++) {
      V part[2] = {};
      UNROLL for (int i = 0; i < parts; i++)
        UNROLL for (int j = 0; j < Q::vectors; j++)
          part[j & 1] = multiply_pairs(codes[j], load_pairs(x + m * length + (i * Q::vectors + j) * 2 * W), part[j & 1]);
      sums[m] = part[0] + part[1];
    }
  }
};

// Codes of 8 bits as two of 4 each, the higher of which count 16 times: activations times 16 are exact too.
template <int Parts>
struct AsNibbles {
  using X = bf16;
  using Q = Pairs<Format::affine, 4>;
  static constexpr int per = 4, block = per * W, block_bytes = 64, parts = 2 * Parts;
  static constexpr bool single = Parts == 1;

  template <class T>
  static inline void arrange(const T* x, int K, X* out) {
    alignas(64) bf16 number[2][block];
    for (int k = 0; k < K; k += block, out += block * parts) {
      const int n = lesser(block, K - k);
      if (n < block) __builtin_memset(number, 0, sizeof number);
      to_bf16<Parts>(x + k, n, number[0], number[1]);
      for (int part = 0; part < Parts; part++)
        for (int j = 0; j < Q::vectors; j++)
          for (int lane = 0; lane < W; lane++)
            for (int half = 0; half < 2; half++)
              put(out + (part * Q::vectors + j) * 2 * W + 2 * lane + half,
                  value(number[part][lane * per + 2 * half + j / 2]) * (j & 1 ? 16.f : 1.f));
    }
  }

  template <int M>
  static ALWAYS_INLINE void multiply(const uint8_t* p, int lanes, const X* x, size_t length, V (&sums)[M]) {
    AsPairs<Q, Parts>::template multiply<M>(p, lanes, x, length, sums);
  }
};
#endif

// ------------------------------------------------------------------------------------------ activations

// The activations as the blocks want them, and their sum over each group, by which the biases count.
template <class A>
struct Activations {
  typename A::X* x;
  float* sums;
  size_t length;  // of a row
  int groups;     // of a row's sums, padded

  static size_t length_of(const QuantizedMatrix& w) { return size_t(blocks_of(w.K, A::block)) * A::block * A::parts; }
  static size_t bytes(const QuantizedMatrix& w, int M) {
    return round_up(M * length_of(w) * sizeof(typename A::X), 64) + sizeof(float) * M * padded_groups(w);
  }

  Activations(const QuantizedMatrix& w, int M, void* memory)
      : x((typename A::X*)memory), sums((float*)((char*)memory + round_up(M * length_of(w) * sizeof(*x), 64))),
        length(length_of(w)), groups(padded_groups(w)) {}
  static size_t round_up(size_t n, size_t multiple) { return (n + multiple - 1) / multiple * multiple; }

  void fill(const QuantizedMatrix& w, Dtype type, const void* from, int M) const {
    by_type(type, [&]<class T>(T*) {
      for (int m = 0; m < M; m++) {
        const T* row = (const T*)from + size_t(m) * w.K;
        A::arrange(row, w.K, x + m * length);
        float* s = sums + size_t(m) * groups;
        for (int g = w.groups(); g < groups; g++) s[g] = 0;
        if (!w.biases) continue;
        for (int g = 0; g < w.groups(); g++) {
          V total{};
          for (int k = 0; k < w.group; k += W) total += load(row + size_t(g) * w.group + k);
          s[g] = sum(total);
        }
      }
    });
  }
};

// ------------------------------------------------------------------------------------------ the matrix

// A part of the matrix's rows with its scales and biases, as S.
template <class S>
struct Part {
  const uint8_t* codes;
  const S *scales, *biases;  // row after row; biases null unless affine
  size_t row_bytes;
};

// Bytes from now that are asked for: more than comes in a memory's latency. Multiples of 4096 were a third slower.
constexpr size_t AHEAD = 6144, SCALES_AHEAD = 1024;

// R rows of the part, from `first` on, by M rows of activations; out[m * stride + row].
template <class A, int M, int R, class S>
inline void rows_times(const QuantizedMatrix& w, const Part<S>& p, const Activations<A>& a, const LaneScales& lanes,
                       int first, float* out, int stride) {
  const int G = w.groups(), whole = w.K / A::block, lanes_left = w.K % A::block / A::per;
  const S *scales = p.scales + size_t(first) * G, *biases = p.biases ? p.biases + size_t(first) * G : nullptr;
  const uint8_t* from = p.codes + first * p.row_bytes;
  // Memory gives most to a reader that asks straight on, whatever the order in which it then takes the rows.
  const uint8_t* next = from + (R == 1 ? 0 : p.row_bytes * R) + AHEAD;
  for (int g = 0; g < R * G; g += 64 / sizeof(S)) {
    __builtin_prefetch((const char*)(scales + g) + SCALES_AHEAD);
    if (biases) __builtin_prefetch((const char*)(biases + g) + SCALES_AHEAD);
  }
  V total[R][M] = {};
  for (int b = 0; b < whole; b++) {
    UNROLL for (int r = 0; r < R; r++) {
      const uint8_t* block = from + r * p.row_bytes + size_t(b) * A::block_bytes;
      __builtin_prefetch(next);
      next += A::block_bytes;
      V sums[M];
      A::template multiply<M>(block, W, a.x + size_t(b) * A::block * A::parts, a.length, sums);
      const V scale = lanes.of(scales + r * G, b);
      UNROLL for (int m = 0; m < M; m++) total[r][m] = fma(sums[m], scale, total[r][m]);
    }
  }
  if (lanes_left) {
    UNROLL for (int r = 0; r < R; r++) {
      V sums[M];
      A::template multiply<M>(from + r * p.row_bytes + size_t(whole) * A::block_bytes, lanes_left,
                              a.x + size_t(whole) * A::block * A::parts, a.length, sums);
      const V scale = lanes.of_last(scales + r * G, whole);
      UNROLL for (int m = 0; m < M; m++) total[r][m] = fma(sums[m], scale, total[r][m]);
    }
  }
  if (biases) {
    for (int g = 0; g < G; g += W)
      UNROLL for (int r = 0; r < R; r++) {
        const V bias = G - g >= W ? load(biases + r * G + g) : load_n(biases + r * G + g, G - g);
        UNROLL for (int m = 0; m < M; m++) total[r][m] = fma(bias, load(a.sums + m * a.groups + g), total[r][m]);
      }
  }
  UNROLL for (int m = 0; m < M; m++) UNROLL for (int r = 0; r < R; r++) out[m * stride + first + r] = sum(total[r][m]);
}

template <class A, int M, class S>
inline void part_times(const QuantizedMatrix& w, const Part<S>& p, const Activations<A>& a, const LaneScales& lanes,
                       int count, float* out, int stride) {
  constexpr int R = M == 1 && A::single ? 1 : M <= 2 ? 4 : 2;
  int r = 0;
  for (; r + R <= count; r += R) rows_times<A, M, R>(w, p, a, lanes, r, out, stride);
  for (; r < count; r++) rows_times<A, M, 1>(w, p, a, lanes, r, out, stride);
}

// Rows n .. n + count of the matrix by the activations. Scales are used where they lie, as LaneScales reads a little
// past them only where that stays within the array; else, and for formats without such reads, they are widened first.
template <class A, int M>
inline void matrix_times(const QuantizedMatrix& w, const Activations<A>& a, int n, int count, float* out, int stride) {
  const LaneScales lanes(w, A::per);
  const int G = w.groups();
  const uint8_t* codes = w.codes + n * w.row_bytes();
  const bool inside = int64_t(n + count) * G + W <= int64_t(w.N) * G;
  const auto in_place = [&]<class S>(S*) {
    const S *scales = (const S*)w.scales + int64_t(n) * G, *biases = (const S*)w.biases;
    part_times<A, M>(w, Part<S>{codes, scales, biases ? biases + int64_t(n) * G : nullptr, w.row_bytes()}, a, lanes,
                     count, out, stride);
  };
  if (inside && w.scale_type == ScaleType::f32) return in_place((float*)nullptr);
  if constexpr (A::per == 8 || std::is_same_v<typename A::X, bf16>) {  // where it is worth the code
    if (inside && w.scale_type == ScaleType::bf16) return in_place((bf16*)nullptr);
    if (inside && w.scale_type == ScaleType::f16) return in_place((f16*)nullptr);
  }
  const int width = round_up(count * G, W) + W;
  float *scales = (float*)scratch(kRows, sizeof(float) * 2 * width), *biases = scales + width;
  read_scales(w.scale_type, w.scales, int64_t(n) * G, count * G, scales);
  if (w.biases) read_scales(w.scale_type, w.biases, int64_t(n) * G, count * G, biases);
  part_times<A, M>(w, Part<float>{codes, scales, w.biases ? biases : nullptr, w.row_bytes()}, a, lanes, count, out, stride);
}

// ------------------------------------------------------------------------------------------- the results

// out[i] for i < count, a whole vector at a time: f(i, n) gives the n values from i on.
template <class T, class F>
inline void put_all(T* out, int count, F&& f) {
  for (int i = 0; i < count; i += W) {
    const int n = lesser(W, count - i);
    if (n == W) store(out + i, f(i, W));
    else store_n(out + i, f(i, n), n);
  }
}
template <class T>
inline V some(const T* p, int n) { return n == W ? load(p) : load_n(p, n); }

// Rows n .. n + count of matrix i, or of all that are joined there, for M rows of activations from `first` on.
template <class A, int M>
inline void few_task(const FewRows& f, const Activations<A>* a, int first, int i, int n, int count) {
  const int N = f.w[i].N, stride = round_up(count, W);
  float* y = (float*)scratch(kTile, sizeof(float) * 2 * M * stride + sizeof(float) * W);
  float* other = y + M * stride;
  matrix_times<A, M>(f.w[i], a[0], n, count, y, stride);
  const auto bias_of = [&](int k) { return f.bias && f.bias[k] ? f.bias[k] + n : nullptr; };
  const auto add_bias = [&](const float* bias, float* to) {
    if (bias) for (int m = 0; m < M; m++)
      put_all(to + m * stride, count, [&](int c, int k) { return some(to + m * stride + c, k) + some(bias + c, k); });
  };
  add_bias(bias_of(i), y);
  if (f.join == Join::gated) {
    matrix_times<A, M>(f.w[i + 1], a[0], n, count, other, stride);
    add_bias(bias_of(i + 1), other);
  }
  if (f.join == Join::sum) {
    if (f.share) for (int c = 0; c < M * stride; c++) y[c] *= f.share[0];
    for (int k = 1; k < f.count; k++) {
      matrix_times<A, M>(f.w[k], a[k], n, count, other, stride);
      add_bias(bias_of(k), other);
      for (int c = 0; c < M * stride; c++) y[c] += (f.share ? f.share[k] : 1.f) * other[c];
    }
  }
  by_type(f.type, [&]<class T>(T*) {
    for (int m = 0; m < M; m++) {
      const size_t at = size_t(first + m) * N + n;
      T* out = (T*)f.out[f.join == Join::gated ? i / 2 : i] + at;
      const float *ym = y + m * stride, *om = other + m * stride;
      const T* more = f.residual ? (const T*)f.residual + at : nullptr;
      if (f.join == Join::gated)
        put_all(out, count, [&](int c, int k) { return opened(some(ym + c, k), f.gate) * some(om + c, k); });
      else if (more) put_all(out, count, [&](int c, int k) { return some(ym + c, k) + some(more + c, k); });
      else put_all(out, count, [&](int c, int k) { return some(ym + c, k); });
    }
  });
}

// How a list of matrices falls into tasks: of matrix i those before last[i], each of rows[i] rows.
struct Tasks {
  int *last, *rows, total = 0;

  // `memory` has room for 2 * f.count numbers.
  Tasks(const FewRows& f, int* memory) : last(memory), rows(memory + f.count) {
    int64_t all = 0;
    for (int i = 0; i < f.count; i++) all += int64_t(f.w[i].row_bytes()) * f.w[i].N;
    // Where many are read one after the other, larger tasks share them out as evenly.
    const int64_t part = lesser(all / (64 * mlxlm::pool_size()), int64_t(128 << 10));
    const int step = f.join == Join::gated ? 2 : 1, count = f.join == Join::sum ? 1 : f.count;
    for (int i = 0, before = 0; i < count; i += step) {
      const int64_t row = f.w[i].row_bytes();
      rows[i] = round_up(greater(rows_of_stream(row, f.w[i].N), int(part / row)), 4);
      last[i] = before += (f.w[i].N + rows[i] - 1) / rows[i];
      total = before;
    }
  }
};

template <class A, int M>
inline void few_rows_of(const FewRows& f, int first) {
  using Set = Activations<A>;
  const int sets = f.join == Join::sum ? f.count : 1, step = f.join == Join::gated ? 2 : 1;
  const size_t bytes = Set::round_up(Set::bytes(f.w[0], M), 64);
  char* memory = (char*)scratch(kPanel, sets * (bytes + sizeof(Set)) + 2 * sizeof(int) * f.count);
  Set* a = (Set*)(memory + sets * bytes);
  for (int s = 0; s < sets; s++) {
    new (a + s) Set(f.w[0], M, memory + s * bytes);
    a[s].fill(f.w[0], f.type, (const char*)f.x[s] + size_of(f.type) * first * f.w[0].K, M);
  }
  const Tasks tasks(f, (int*)(a + sets));
  parallel_streams(tasks.total, [&](int t) {
    int i = 0;
    while (t >= tasks.last[i]) i += step;
    const int rows = tasks.rows[i], n = (t - (i ? tasks.last[i - step] : 0)) * rows;
    few_task<A, M>(f, a, first, i, n, lesser(rows, f.w[i].N - n));
  });
}

template <class A>
inline void few_rows_as(const FewRows& f) {
  for (int m = 0; m < f.M;) {
    switch (f.M - m) {
      case 1: few_rows_of<A, 1>(f, m), m += 1; break;
      case 2: few_rows_of<A, 2>(f, m), m += 2; break;
      case 3: few_rows_of<A, 3>(f, m), m += 3; break;
      default: few_rows_of<A, 4>(f, m), m += 4;
    }
  }
}

void few_rows(const FewRows& f) {
  by_format(f.w[0], [&]<Format format, int bits>(Codes<format, bits>) {
#if MLXLM_LEVEL == 513
    using Q = Pairs<format, bits>;
    // Two bf16 numbers hold all of a float16 one, and 16 bits of a float32: enough beside codes of 4 bits and fewer.
    const bool exact = f.type != Dtype::f32;
    if constexpr (Q::fits) {
      if (f.type == Dtype::bf16) return few_rows_as<AsPairs<Q, 1>>(f);
      if (exact || !Q::across) return few_rows_as<AsPairs<Q, 2>>(f);
    }
    if constexpr (format == Format::affine && bits == 8) {
      if (f.type == Dtype::bf16) return few_rows_as<AsNibbles<1>>(f);
      if (exact) return few_rows_as<AsNibbles<2>>(f);
    }
#endif
    few_rows_as<AsFloats<Codes<format, bits>>>(f);
  });
}

}  // namespace
