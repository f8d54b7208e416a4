// Runs every kernel over odd sizes in buffers of exactly their size, from several threads at once: what a sanitizer or
// an emulator watches. Prints how many results it compared with sums in double, and fails where one is off.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "pool.h"
#include "table.h"

using namespace mlxlm;

namespace {

std::atomic<long> compared{0}, wrong{0};

// Memory of one size to the byte.
struct Exact {
  std::unique_ptr<char, decltype(&std::free)> data;
  size_t bytes;
  explicit Exact(size_t n) : data((char*)std::malloc(n ? n : 1), &std::free), bytes(n) { std::memset(data.get(), 0, n); }
  template <class T>
  T* as() { return (T*)data.get(); }
};

struct Maker {
  std::mt19937 random;
  explicit Maker(unsigned seed) : random(seed) {}
  int upto(int n) { return int(random() % unsigned(n)); }
  float number() { return float(int(random() % 2001) - 1000) / 1000; }
};

float read(Dtype t, const void* p, size_t i) {
  if (t == Dtype::f32) return ((const float*)p)[i];
  float out;
  if (t == Dtype::bf16) {
    const uint32_t bits = uint32_t(((const uint16_t*)p)[i]) << 16;
    std::memcpy(&out, &bits, 4);
    return out;
  }
  kernels().to_f32(Dtype::f16, (const uint16_t*)p + i, &out, 1);
  return out;
}

// Numbers that every type holds exactly: eighths from -1 to 1.
Exact numbers(Maker& make, Dtype t, size_t count) {
  Exact e(size_of(t) * count);
  for (size_t i = 0; i < count; i++) {
    const float x = float(make.upto(17) - 8) / 8;
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    if (t == Dtype::f32) e.as<float>()[i] = x;
    else if (t == Dtype::bf16) e.as<uint16_t>()[i] = uint16_t(bits >> 16);
    else e.as<uint16_t>()[i] = uint16_t((bits >> 16 & 0x8000) | (x == 0 ? 0 : ((bits >> 23 & 255) - 112) << 10 | (bits >> 13 & 1023)));
  }
  return e;
}

void compare(Dtype t, const void* out, size_t i, double want, double bound) {
  const double got = read(t, out, i), unit = t == Dtype::f32 ? 1e-6 : t == Dtype::f16 ? 1e-3 : 8e-3;
  compared++;
  if (!(std::fabs(got - want) <= unit * std::fabs(want) + 8e-6 * bound + 1e-6)) {
    if (wrong++ < 5) std::fprintf(stderr, "got %g, wanted %g (%s)\n", got, want, kernels().name);
  }
}

struct Matrix {
  QuantizedMatrix w;
  Exact codes, scales, biases;
  Matrix(Maker& make, Format format, int bits, int group, ScaleType st, int N, int K)
      : w{}, codes(size_t(N) * K / 8 * bits), scales(0), biases(0) {
    for (size_t i = 0; i < codes.bytes; i++) codes.as<uint8_t>()[i] = uint8_t(make.random());
    const size_t count = size_t(N) * (K / group);
    if (st >= ScaleType::e8m0) {
      scales = Exact(count);
      for (size_t i = 0; i < count; i++) scales.as<uint8_t>()[i] = uint8_t(st == ScaleType::e8m0 ? 124 + make.upto(5) : 40 + make.upto(20));
    } else {
      scales = numbers(make, Dtype(int(st)), count), biases = numbers(make, Dtype(int(st)), count);
    }
    w = {codes.as<uint8_t>(), scales.as<void>(), format == Format::affine ? biases.as<void>() : nullptr, st, format, bits, group, N, K};
  }
};

void quantized(Maker& make) {
  static const struct { Format format; int bits, group; ScaleType scale; } kinds[] = {
      {Format::affine, 2, 32, ScaleType::f32}, {Format::affine, 3, 64, ScaleType::bf16}, {Format::affine, 4, 64, ScaleType::f16},
      {Format::affine, 4, 32, ScaleType::bf16}, {Format::affine, 4, 128, ScaleType::f32}, {Format::affine, 5, 32, ScaleType::f16},
      {Format::affine, 6, 64, ScaleType::f32}, {Format::affine, 8, 32, ScaleType::bf16}, {Format::fp4, 4, 32, ScaleType::e8m0},
      {Format::fp8, 8, 32, ScaleType::e8m0}, {Format::fp4, 4, 16, ScaleType::e4m3}};
  const auto& k = kinds[make.upto(11)];
  static const int Ms[] = {1, 2, 3, 4, 7, 9, 33, 70};
  const int group = k.group < 32 ? 32 : k.group, K = group * (1 + make.upto(6)), N = 1 + make.upto(40), M = Ms[make.upto(8)];
  const Dtype type = Dtype(make.upto(3));
  Matrix m(make, k.format, k.bits, k.group, k.scale, N, K), other(make, k.format, k.bits, k.group, k.scale, N, K);
  Exact x = numbers(make, type, size_t(M) * K), out(size_of(type) * M * N), bias = numbers(make, Dtype::f32, N);
  kernels().quantized_matmul(m.w, {type, x.as<void>(), out.as<void>(), bias.as<float>(), M});
  std::vector<int64_t> rows(N);
  for (int n = 0; n < N; n++) rows[n] = n;
  Exact weights(sizeof(float) * N * K), others(sizeof(float) * N * K);
  kernels().quantized_rows(m.w, rows.data(), N, Dtype::f32, weights.as<void>());
  kernels().quantized_rows(other.w, rows.data(), N, Dtype::f32, others.as<void>());
  const auto product = [&](Exact& w, int row, int n, double* bound) {
    double total = 0;
    *bound = 1;
    for (int i = 0; i < K; i++) {
      const double p = double(read(type, x.as<void>(), size_t(row) * K + i)) * w.as<float>()[size_t(n) * K + i];
      total += p, *bound += std::fabs(p) + 20;
    }
    return total;
  };
  double bound;
  for (int i = 0; i < M; i++)
    for (int n = 0; n < N; n++) {
      const double want = product(weights, i, n, &bound) + bias.as<float>()[n];
      compare(type, out.as<void>(), size_t(i) * N + n, want, bound);
    }
  // Rounding to 127 steps moves no number by more than half of one; those here are at most 1.
  kernels().quantized_matmul(m.w, {type, x.as<void>(), out.as<void>(), bias.as<float>(), M, true});
  for (int i = 0; i < M; i++)
    for (int n = 0; n < N; n++) {
      const double want = product(weights, i, n, &bound) + bias.as<float>()[n];
      double apart = 0;
      for (int k = 0; k < K; k++) apart += std::fabs(weights.as<float>()[size_t(n) * K + k]) / 254;
      compare(type, out.as<void>(), size_t(i) * N + n, want, bound + apart / 8e-6);
    }
  const int few = M > 8 ? 8 : M;
  const QuantizedMatrix both[2] = {m.w, other.w};
  const void* xs[2] = {x.as<void>(), x.as<void>()};
  void* outs[1] = {out.as<void>()};
  const float share[2] = {0.5f, -2};
  kernels().few_rows({both, 2, Join::gated, Gate::silu, type, few, xs, outs, nullptr, nullptr, nullptr});
  kernels().few_rows({both, 2, Join::sum, Gate::silu, type, few, xs, outs, nullptr, share, nullptr});
  for (int i = 0; i < few; i++)
    for (int n = 0; n < N; n++) {
      double more, want = 0.5 * product(weights, i, n, &bound);
      want -= 2 * product(others, i, n, &more);
      compare(type, out.as<void>(), size_t(i) * N + n, want, bound + 2 * more);
    }
}

void dense(Maker& make) {
  const int K = 1 + make.upto(90), N = 1 + make.upto(40), M = 1 + make.upto(40);
  const Dtype type = Dtype(make.upto(3)), weight = Dtype(make.upto(3));
  Exact w = numbers(make, weight, size_t(N) * K), x = numbers(make, type, size_t(M) * K), out(size_of(type) * M * N);
  kernels().dense_matmul({w.as<void>(), weight, N, K, K}, {type, x.as<void>(), out.as<void>(), nullptr, M});
  for (int i = 0; i < M; i++)
    for (int n = 0; n < N; n++) {
      double want = 0;
      for (int k = 0; k < K; k++) want += double(read(type, x.as<void>(), size_t(i) * K + k)) * read(weight, w.as<void>(), size_t(n) * K + k);
      compare(type, out.as<void>(), size_t(i) * N + n, want, K);
    }
}

// Keys or values (B, Hk, S, D) in memory of exactly their size: plain, or in a few bits with a scale and a bias for 32.
struct Kept {
  Exact data, scales, biases;
  Dtype type;
  int bits, S, D, Hk;
  Kept(Maker& make, Dtype t, int bits, int B, int Hk, int S, int D)
      : data(0), scales(0), biases(0), type(t), bits(bits), S(S), D(D), Hk(Hk) {
    const size_t count = size_t(B) * Hk * S * D;
    if (!bits) {
      data = numbers(make, t, count);
      return;
    }
    data = Exact(count / 8 * bits);
    for (size_t i = 0; i < data.bytes; i++) data.as<uint8_t>()[i] = uint8_t(make.random());
    scales = numbers(make, t, count / 32), biases = numbers(make, t, count / 32);
  }
  void strides(int64_t* to, int row) const { to[0] = int64_t(Hk) * S * row, to[1] = int64_t(S) * row, to[2] = row; }
  void put(const void** where, int64_t* stride, GroupScales* g) {
    *where = data.as<void>();
    strides(stride, bits ? D * bits / 8 : D);
    if (!bits) return;
    g->scales = scales.as<void>(), g->biases = biases.as<void>();
    strides(g->stride, D / 32), strides(g->bias_stride, D / 32);
  }
  double at(int b, int h, int s, int d) {
    const size_t i = ((size_t(b) * Hk + h) * S + s) * D + d;
    if (!bits) return read(type, data.as<void>(), i);
    const int code = data.as<uint8_t>()[i * bits / 8] >> i * bits % 8 & ((1 << bits) - 1);
    return code * double(read(type, scales.as<void>(), i / 32)) + read(type, biases.as<void>(), i / 32);
  }
};

// x by matrices as they are stored, of more columns than a task has.
void by_columns(Maker& make) {
  const int N = 1 + make.upto(300), K = 32 * (1 + make.upto(9)), M = 1 + make.upto(20);
  const Dtype type = Dtype(make.upto(3)), weight = Dtype(make.upto(3));
  Matrix m(make, Format::affine, (make.upto(2) ? 2 + make.upto(5) : 8), 32, ScaleType(make.upto(3)), N, K);
  Exact x = numbers(make, type, size_t(M) * N), out(size_of(type) * M * K), bias = numbers(make, Dtype::f32, K);
  Exact codes(sizeof(float) * N * K), w = numbers(make, weight, size_t(N) * K);
  std::vector<int64_t> rows(N);
  for (int n = 0; n < N; n++) rows[n] = n;
  kernels().quantized_rows(m.w, rows.data(), N, Dtype::f32, codes.as<void>());
  const auto check = [&](Dtype t, const void* matrix) {
    for (int i = 0; i < M; i++)
      for (int k = 0; k < K; k++) {
        double want = bias.as<float>()[k], bound = 1;
        for (int n = 0; n < N; n++) {
          const double p = double(read(type, x.as<void>(), size_t(i) * N + n)) * read(t, matrix, size_t(n) * K + k);
          want += p, bound += std::fabs(p) + 20;
        }
        compare(type, out.as<void>(), size_t(i) * K + k, want, bound);
      }
  };
  kernels().quantized_by_columns(m.w, {type, x.as<void>(), out.as<void>(), bias.as<float>(), M});
  check(Dtype::f32, codes.as<void>());
  kernels().dense_by_columns({w.as<void>(), weight, N, K, K}, {type, x.as<void>(), out.as<void>(), bias.as<float>(), M});
  check(weight, w.as<void>());
}

double convolved(const Convolution2d& c, int n, int y, int x, int o) {
  const int each = c.C / c.groups, first = o / (c.O / c.groups) * each;
  double total = c.bias[o];
  for (int i = 0; i < c.kernel[0]; i++)
    for (int j = 0; j < c.kernel[1]; j++) {
      const int row = y * c.stride[0] + i * c.dilation[0] - c.before[0], column = x * c.stride[1] + j * c.dilation[1] - c.before[1];
      if (row < 0 || row >= c.in[0] || column < 0 || column >= c.in[1]) continue;
      for (int k = 0; k < each; k++)
        total += double(read(c.type, c.x, ((size_t(n) * c.in[0] + row) * c.in[1] + column) * c.C + first + k)) *
                 read(c.weight_type, c.weight, ((size_t(o) * c.kernel[0] + i) * c.kernel[1] + j) * each + k);
    }
  return total;
}

void convolve(Maker& make) {
  Convolution2d c{};
  c.type = Dtype(make.upto(3)), c.weight_type = Dtype(make.upto(3));
  c.groups = 1 + make.upto(20), c.C = c.groups * (1 + (make.upto(2) ? make.upto(5) : 0)), c.O = c.groups * (1 + make.upto(3)), c.N = 1 + make.upto(2);
  for (int i = 0; i < 2; i++) {
    c.kernel[i] = 1 + make.upto(4), c.stride[i] = 1 + make.upto(2), c.dilation[i] = 1 + make.upto(2), c.before[i] = make.upto(3);
    const int extent = c.dilation[i] * (c.kernel[i] - 1) + 1, after = make.upto(2);
    c.in[i] = extent + make.upto(20);
    c.out[i] = (c.in[i] + c.before[i] + after - extent) / c.stride[i] + 1;
  }
  Exact x = numbers(make, c.type, size_t(c.N) * c.in[0] * c.in[1] * c.C), bias = numbers(make, Dtype::f32, c.O);
  Exact w = numbers(make, c.weight_type, size_t(c.O) * c.kernel[0] * c.kernel[1] * (c.C / c.groups));
  const size_t count = size_t(c.N) * c.out[0] * c.out[1] * c.O;
  Exact y(size_of(c.type) * count);
  c.x = x.as<void>(), c.weight = w.as<void>(), c.y = y.as<void>(), c.bias = bias.as<float>();
  kernels().conv2d(c);
  for (size_t i = 0; i < count; i += 1 + make.upto(7)) {
    const size_t at = i / c.O;
    compare(c.type, c.y, i, convolved(c, int(at / c.out[1] / c.out[0]), int(at / c.out[1] % c.out[0]), int(at % c.out[1]), int(i % c.O)), 100);
  }
}

void attend(Maker& make) {
  static const int widths[] = {0, 0, 4, 8};
  const int B = 1 + make.upto(2), Hk = 1 + make.upto(2), Hq = Hk * (1 + make.upto(5)), L = 1 + make.upto(20), S = L + make.upto(90);
  const int bits = widths[make.upto(4)], D = bits ? 32 * (1 + make.upto(3)) : 1 + make.upto(80);
  const int Dv = bits ? 32 * (1 + make.upto(3)) : 1 + make.upto(80);
  const Dtype type = Dtype(make.upto(3));
  Exact q = numbers(make, type, size_t(B) * Hq * L * D), out(size_of(type) * B * Hq * L * Dv);
  Kept k(make, type, bits, B, Hk, S, D), v(make, type, bits, B, Hk, S, Dv);
  Exact seen(size_t(L) * S), sinks = numbers(make, Dtype::f32, Hq);
  for (size_t i = 0; i < seen.bytes; i++) seen.as<uint8_t>()[i] = i % S == 0 || make.upto(3) != 0;
  Attention a{};
  a.type = type, a.q = q.as<void>(), a.out = out.as<void>();
  a.B = B, a.Hq = Hq, a.Hk = Hk, a.L = L, a.S = S, a.D = D, a.Dv = Dv, a.scale = bits == 8 ? 0.002f : bits ? 0.02f : 0.25f;
  a.bits = bits, a.group = 32, a.cap = make.upto(3) ? 0 : 2;
  const int64_t qs[] = {int64_t(Hq) * L * D, int64_t(L) * D, D};
  std::memcpy(a.q_stride, qs, sizeof qs);
  k.put(&a.k, a.k_stride, &a.k_groups), v.put(&a.v, a.v_stride, &a.v_groups);
  a.mask.kind = Mask::Kind(make.upto(3));
  if (a.mask.kind == Mask::boolean) a.mask.data = seen.as<void>(), a.mask.stride[2] = S, a.mask.stride[3] = 1;
  if (make.upto(2)) a.sinks = sinks.as<float>();
  kernels().attention(a);
  const int h = make.upto(Hq), l = make.upto(L), b = make.upto(B), hk = h / (Hq / Hk);
  std::vector<double> score(S);
  double top = a.sinks ? sinks.as<float>()[h] : -1e30;
  for (int s = 0; s < S; s++) {
    double x = 0;
    for (int d = 0; d < D; d++) x += read(type, q.as<void>(), b * qs[0] + h * qs[1] + l * qs[2] + d) * k.at(b, hk, s, d);
    const bool hidden = (a.mask.kind == Mask::causal && s > S - L + l) || (a.mask.kind == Mask::boolean && !seen.as<uint8_t>()[l * S + s]);
    x = a.cap != 0 ? a.cap * std::tanh(x * a.scale / a.cap) : x * a.scale;
    score[s] = hidden ? -1e30 : x;
    top = std::max(top, score[s]);
  }
  double total = a.sinks ? std::exp(sinks.as<float>()[h] - top) : 0;
  for (double& x : score) total += x = std::exp(x - top);
  // Values of bf16 may be weighed by weights of bf16.
  const int bound = bits == 8 || type == Dtype::bf16 ? 500 : bits ? 40 : 10;
  for (int d = 0; d < Dv; d++) {
    double want = 0;
    for (int s = 0; s < S; s++) want += score[s] / total * v.at(b, hk, s, d);
    compare(type, out.as<void>(), ((size_t(b) * L + l) * Hq + h) * Dv + d, want, bound);
  }
}

void pointwise(Maker& make) {
  const int rows = 1 + make.upto(9), D = 2 * (1 + make.upto(40));
  const size_t count = size_t(rows) * D;
  const Dtype type = Dtype(make.upto(3));
  Exact x = numbers(make, type, count), y = numbers(make, type, count), out(size_of(type) * count), w = numbers(make, Dtype::f32, D);
  kernels().rms_norm(type, x.as<void>(), w.as<float>(), 1e-5f, out.as<void>(), type, rows, D);
  double squares = 1e-5 * D;
  for (int i = 0; i < D; i++) squares += std::pow(read(type, x.as<void>(), i), 2);
  for (int i = 0; i < D; i++) compare(type, out.as<void>(), i, read(type, x.as<void>(), i) * w.as<float>()[i] / std::sqrt(squares / D), 1);
  kernels().layer_norm(type, x.as<void>(), w.as<float>(), w.as<float>(), 1e-5f, out.as<void>(), type, rows, D);
  kernels().gated(type, Gate(make.upto(2)), x.as<void>(), y.as<void>(), out.as<void>(), int64_t(count));
  kernels().gated(type, Gate(make.upto(3)), x.as<void>(), nullptr, out.as<void>(), int64_t(count));
  kernels().add(type, x.as<void>(), y.as<void>(), out.as<void>(), int64_t(count));
  for (size_t i = 0; i < count; i++) compare(type, out.as<void>(), i, double(read(type, x.as<void>(), i)) + read(type, y.as<void>(), i), 1);
  Exact angles = numbers(make, Dtype::f32, count);
  kernels().rope({type, x.as<void>(), out.as<void>(), {int64_t(count), D, D, 1}, 1, 1, rows, D, D / 2 / 2 * 2, make.upto(2) == 0,
                  false, angles.as<float>(), angles.as<float>()});
  kernels().gated(type, Gate(make.upto(5)), x.as<void>(), y.as<void>(), out.as<void>(), int64_t(count));
  kernels().gated(type, Gate::gelu, x.as<void>(), nullptr, out.as<void>(), int64_t(count));
  for (size_t i = 0; i < count; i++) {
    const double v = read(type, x.as<void>(), i);
    compare(type, out.as<void>(), i, v * std::erfc(-v / std::sqrt(2)) / 2, 1);
  }
  kernels().from_f32(type, angles.as<float>(), out.as<void>(), int64_t(count));
  kernels().squared_relu(type, out.as<void>(), int64_t(count));
}

void recurrent(Maker& make) {
  const int B = 1 + make.upto(2), L = 1 + make.upto(5), H = 2, G = 1 + make.upto(2), P = 1 + make.upto(40), N = 1 + make.upto(40);
  const auto some = [&](size_t n) { return numbers(make, Dtype::f32, n); };
  Exact x = some(size_t(B) * L * H * P), dt = some(size_t(B) * L * H), a = some(H), b = some(size_t(B) * L * G * N), c = some(b.bytes / 4);
  Exact state = some(size_t(B) * H * P * N), y(x.bytes), last(state.bytes);
  kernels().state_space({x.as<float>(), dt.as<float>(), a.as<float>(), b.as<float>(), c.as<float>(), state.as<float>(), y.as<float>(),
                         last.as<float>(), B, L, H, G, P, N, H * P, G * N, nullptr});
  Exact k = some(size_t(B) * L * H * N), q = some(k.bytes / 4), g = some(size_t(B) * L * H), beta = some(g.bytes / 4);
  kernels().delta_rule({q.as<float>(), k.as<float>(), x.as<float>(), g.as<float>(), beta.as<float>(), state.as<float>(), y.as<float>(),
                        last.as<float>(), B, L, H, N, P});
}

double opened(double x) { return x / (1 + std::exp(-x)); }

void mamba(Maker& make) {
  const int B = 1 + make.upto(2), L = 1 + make.upto(3), H = 2, G = 1 + make.upto(2), P = 1 + make.upto(40), N = 1 + make.upto(40);
  const int width = 2 + make.upto(4), inner = H * P, C = inner + 2 * G * N, wide = inner + C + H, groups = make.upto(3), M = B * L;
  const Dtype type = Dtype(make.upto(3));
  const auto some = [&](size_t n) { return numbers(make, Dtype::f32, n); };
  Exact rows = numbers(make, type, size_t(M) * wide), past = numbers(make, type, size_t(B) * (width - 1) * C), state = some(size_t(B) * inner * N);
  Exact conv = some(size_t(width) * C), bias = some(C), dt = some(size_t(M) * H), a = some(H), d = some(H), norm = some(inner);
  Exact mixed(sizeof(float) * M * C), y(sizeof(float) * M * inner), out(size_of(type) * M * inner);
  std::vector<double> h(state.as<float>(), state.as<float>() + size_t(B) * inner * N), want;
  const auto at = [&](int b, int row, int c) {
    return row < width - 1 ? read(type, past.as<void>(), (size_t(b) * (width - 1) + row) * C + c)
                           : read(type, rows.as<void>(), (size_t(b) * L + row - width + 1) * wide + inner + c);
  };
  for (int m = 0; m < M; m++) {
    std::vector<double> x(C), v(inner), squares(3);
    for (int c = 0; c < C; c++) {
      x[c] = bias.as<float>()[c];
      for (int k = 0; k < width; k++) x[c] += double(conv.as<float>()[k * C + c]) * at(m / L, m % L + k, c);
      x[c] = opened(x[c]);
    }
    for (int i = 0; i < inner; i++) {
      const int head = i / P, first = inner + head / (H / G) * N;
      const double step = dt.as<float>()[m * H + head], fade = std::exp(step * a.as<float>()[head]);
      v[i] = x[i] * d.as<float>()[head];
      for (int n = 0; n < N; n++) {
        double& s = h[(size_t(m / L) * inner + i) * N + n];
        s = s * fade + step * x[i] * x[first + n];
        v[i] += s * x[first + G * N + n];
      }
      v[i] *= opened(read(type, rows.as<void>(), size_t(m) * wide + i));
      squares[groups ? i / (inner / groups) : 0] += v[i] * v[i];
    }
    for (int i = 0; i < inner; i++)
      want.push_back(groups ? v[i] / std::sqrt(squares[i / (inner / groups)] * groups / inner + 1e-2) * norm.as<float>()[i] : v[i]);
  }
  kernels().mamba_step({type, rows.as<void>(), past.as<void>(), state.as<float>(), conv.as<float>(), bias.as<float>(), dt.as<float>(),
                        a.as<float>(), d.as<float>(), groups ? norm.as<float>() : nullptr, 1e-2f, groups, B, L, H, P, G, N, width,
                        mixed.as<float>(), y.as<float>(), out.as<void>()});
  for (size_t i = 0; i < want.size(); i++) compare(type, out.as<void>(), i, want[i], 1 + std::fabs(want[i]) * 10);
  for (size_t i = 0; i < h.size(); i++) compare(Dtype::f32, state.as<void>(), i, h[i], 10);
}

void work(unsigned seed, int rounds) {
  Maker make(seed);
  for (int i = 0; i < rounds; i++) {
    quantized(make);
    dense(make);
    by_columns(make);
    convolve(make);
    attend(make);
    pointwise(make);
    recurrent(make);
    mamba(make);
  }
}

}  // namespace

// driver [instruction set] [rounds] [threads]
int main(int argc, char** argv) {
  const char* forced = argc > 1 ? argv[1] : "";
  const int rounds = argc > 2 ? std::atoi(argv[2]) : 40, threads = argc > 3 ? std::atoi(argv[3]) : 3;
  if (!choose_table(forced)) {
    std::fprintf(stderr, "this processor lacks %s\n", forced);
    return 2;
  }
  std::vector<std::thread> running;
  for (int t = 0; t < threads; t++) running.emplace_back(work, unsigned(t), rounds);
  for (auto& t : running) t.join();
  std::printf("%s: %ld compared, %ld wrong\n", kernels().name, compared.load(), wrong.load());
  return wrong ? 1 : 0;
}
