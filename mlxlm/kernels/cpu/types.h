// The number types and matrix descriptions that the kernels, the dispatch table and the MLX shim share.
#pragma once
#include <cstddef>
#include <cstdint>

namespace mlxlm {

// Positions up to which a step is one of decoding: going through the weights once is then all that counts.
constexpr int kDecoding = 8;

enum class Dtype : int { f32, bf16, f16 };

// How a group's scale is stored: the float types, or a bare exponent (mxfp4, mxfp8), or fp8 (nvfp4).
enum class ScaleType : int { f32, bf16, f16, e8m0, e4m3 };

// How a weight's code becomes a number: affine is code * scale + bias; the others are code * scale.
enum class Format : int { affine, fp4, fp8 };

// What an activation, or a gated unit, makes of x: x sigmoid(x), or x times the normal distribution's integral by its tanh
// form, or the square of what is positive, or that integral itself, or x sigmoid(1.702 x).
enum class Gate : int { silu, gelu_tanh, squared_relu, gelu, quick_gelu };

struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};

inline size_t size_of(Dtype t) { return t == Dtype::f32 ? 4 : 2; }

// (N, K) weights, row after row, K codes of `bits` bits a row, one scale (and bias) per `group` codes.
struct QuantizedMatrix {
  const uint8_t* codes;
  const void* scales;
  const void* biases;  // null unless affine
  ScaleType scale_type;
  Format format;
  int bits, group;
  int N, K;

  size_t row_bytes() const { return size_t(K) / 8 * bits; }
  size_t scale_size() const { return scale_type == ScaleType::f32 ? 4 : scale_type >= ScaleType::e8m0 ? 1 : 2; }
  int groups() const { return K / group; }
  // The matrix that many further on in a stack of such.
  QuantizedMatrix at(int64_t index) const {
    QuantizedMatrix w = *this;
    const int64_t scale_bytes = index * N * groups() * int64_t(scale_size());
    w.codes += index * N * int64_t(row_bytes());
    w.scales = (const char*)w.scales + scale_bytes;
    if (w.biases) w.biases = (const char*)w.biases + scale_bytes;
    return w;
  }
};

// (N, K) weights in a float type; each row is contiguous, rows are `stride` elements apart.
struct DenseMatrix {
  const void* data;
  Dtype type;
  int N, K;
  int64_t stride;
};

// The rows that a matmul reads and writes: x is (M, K) contiguous, out is (M, N) contiguous, both of `type`.
// `bias` is (N,) in f32, or null. `in_bytes`: many rows of x may be rounded to 8 bits, see tile_bytes.h.
struct MatmulRows {
  Dtype type;
  const void* x;
  void* out;
  const float* bias;
  int M;
  bool in_bytes = false;
};

// How the results of several matrices belong together: each for itself; by twos, the first a gate of the second; summed.
enum class Join : int { each, gated, sum };

// A few rows by `count` quantized matrices of one format, group and K (and one N where they are joined).
struct FewRows {
  const QuantizedMatrix* w;
  int count;
  Join join;
  Gate gate;  // what `gated` makes of each first result
  Dtype type;
  int M;
  const void* const* x;      // (M, K), contiguous: one for all, or one for each matrix of a sum
  void* const* out;          // (M, N), contiguous: as many as there are results
  const float* const* bias;  // (N,) for each matrix, null where there is none; null where none has one
  const float* share;        // what each matrix of a sum counts; null for 1
  const void* residual;      // (M, N), added to the one result; null for none
};

// A mask broadcast to (B, Hq, L, S): strides in elements, 0 where it is broadcast.
struct Mask {
  enum Kind : int { none, causal, boolean, additive } kind = none;
  Dtype type = Dtype::f32;
  const void* data = nullptr;
  int64_t stride[4] = {0, 0, 0, 0};
};

// What stands beside the codes of packed keys or values: a scale and a bias of the queries' type for each group of a row,
// those of a row one after another. Strides in numbers, for batch, head and position.
struct GroupScales {
  const void *scales, *biases;
  int64_t stride[3], bias_stride[3];
};

// Attention over q (B, Hq, L, D), k (B, Hk, S, D), v (B, Hk, S, Dv); the last axis of each is contiguous.
// out is (B, L, Hq, Dv) in memory: transposing heads back to (B, L, Hq * Dv) then costs nothing.
struct Attention {
  Dtype type;
  const void *q, *k, *v;
  void* out;
  int64_t q_stride[3], k_stride[3], v_stride[3];  // batch, head, position
  int B, Hq, Hk, L, S, D, Dv;
  float scale;
  float cap;  // scores become cap * tanh(score / cap) before the mask; 0 for none
  Mask mask;
  const float* sinks;  // (Hq,) or null
  int bits, group;     // of packed keys and values, whose strides are then in bytes; 0 for plain ones
  GroupScales k_groups, v_groups;
};

// Rotation of x (B, H, L, D) with strides in elements; `out` is contiguous. `cosine` and `sine` are
// (Bo, L, dims / 2) with Bo = B where rows have offsets of their own, else 1.
struct Rope {
  Dtype type;
  const void* x;
  void* out;
  int64_t stride[4];
  int B, H, L, D, dims;
  bool traditional, per_row;
  const float *cosine, *sine;
};

// A depthwise convolution of x (B, L + width - 1, C) to out (B, L, C), both contiguous; weight (width, C), bias (C,) or
// null.
struct Convolution {
  Dtype type;
  const void* x;
  void* out;
  const float *weight, *bias;
  int B, L, C, width;
};

// A convolution of images x (N, in[0], in[1], C) to y (N, out[0], out[1], O), all contiguous: weight (O, kernel[0],
// kernel[1], C / groups), bias (O,) or null; `before` zeros above and to the left, as many as needed after.
struct Convolution2d {
  Dtype type, weight_type;
  const void *x, *weight;
  void* y;
  const float* bias;
  int N, C, O, groups, in[2], out[2], kernel[2], stride[2], before[2], dilation[2];
};

// h = exp(dt a) h + dt x b, y = h . c for each of C channels: x and dt (B, L, C), a (C, N), b and c (B, L, N), states
// (B, C, N).
struct SelectiveScan {
  const float *x, *dt, *a, *b, *c, *state;
  float *y, *last;
  int B, L, C, N;
};

// h = exp(dt a) h + dt x (x) b, y = h . c + d x: x (B, L, H, P), dt (B, L, H), a (H,), b and c (B, L, G, N), states
// (B, H, P, N), which may be the same memory; `d` (H,) or null for 0. From a position's x to the next are x_row numbers,
// from its b and c to theirs bc_row.
struct StateSpace {
  const float *x, *dt, *a, *b, *c, *state;
  float *y, *last;
  int B, L, H, G, P, N;
  int64_t x_row, bc_row;
  const float* d;
};

// A Mamba 2 mixer between its projections. A row is what the first gives for a position: gate (H * P), then what the
// convolution mixes, x (H * P) with b and c (G * N each), then what dt is made of (H).
struct MambaStep {
  Dtype type;
  const void* rows;  // (B * L, row())
  void* past;        // (B, width - 1, channels()), the last rows of what was mixed; moves on
  float* state;      // (B, H, P, N), moves on
  const float *conv, *conv_bias;          // (width, channels()), (channels(),) or null
  const float *dt, *a, *d;                // (B * L, H), (H,), (H,)
  const float* norm;                      // (H * P,), or null
  float eps;
  int norm_groups;                        // 0 where nothing is normed
  int B, L, H, P, G, N, width;
  float *mixed, *y;                       // to work in: (B * L, channels()), (B * L, H * P)
  void* out;                              // (B * L, H * P)

  int inner() const { return H * P; }
  int channels() const { return H * P + 2 * G * N; }
  int row() const { return inner() + channels() + H; }
};

// S = exp(g) S, S += k (x) beta (v - S k), y = S q: q and k (B, L, H, K), v (B, L, H, V), g and beta (B, L, H),
// states (B, H, K, V).
struct DeltaRule {
  const float *q, *k, *v, *g, *beta, *state;
  float *y, *last;
  int B, L, H, K, V;
};

}  // namespace mlxlm
