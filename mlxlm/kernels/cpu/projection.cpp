// Linear layers inside a larger operation, on the kernels' table.
#include "projection.h"

#include "ops.h"

namespace mlxlm {

namespace {

bool is_vector(const mx::array& a, int size, mx::Dtype type) {
  return a.ndim() == 1 && a.shape(0) == size && (a.dtype() == type || (type == mx::float32 && is_kernel_float(a.dtype())));
}

bool alike(const Projection& a, const Projection& b) {
  return a.quantized && b.quantized && a.codes.format == b.codes.format && a.codes.bits == b.codes.bits &&
         a.codes.group == b.codes.group && a.codes.K == b.codes.K && a.codes.scale_type == b.codes.scale_type;
}

void add(Dtype type, const void* a, const void* b, void* out, int64_t count) { kernels().add(type, a, b, out, count); }

}  // namespace

bool LinearShape::fits(const std::vector<mx::array>& in, int first, int K, mx::Dtype type, int N) const {
  const mx::array& w = in[first];
  if (N && w.shape(0) != N) return false;
  if (has_bias && !is_vector(in[first + arrays() - 1], w.shape(0), type)) return false;
  if (!quantized) return w.ndim() == 2 && w.shape(1) == K && w.dtype() == type && w.strides(1) == 1;
  const MaybeArray biases = has_biases ? MaybeArray(in[first + 2]) : std::nullopt;
  const Layout l = layout_of(w, in[first + 1], biases, group, bits, mode, 2);
  return l.valid && in[first + 1].shape(1) * l.group == K;
}

mx::array LinearShape::plain(const mx::array& x, const std::vector<mx::array>& in, int first) const {
  const MaybeArray bias = has_bias ? MaybeArray(in[first + arrays() - 1]) : std::nullopt;
  if (!quantized) return op_linear(x, in[first], bias);
  const MaybeArray biases = has_biases ? MaybeArray(in[first + 2]) : std::nullopt;
  return op_quantized_linear(x, in[first], in[first + 1], biases, bias, group, bits, mode);
}

Projection::Projection(const LinearShape& shape, const std::vector<mx::array>& in, int first,
                       mx::cpu::CommandEncoder& encoder)
    : quantized(shape.quantized), int8(shape.int8) {
  if (shape.has_bias) bias = Vector(in[first + shape.arrays() - 1], encoder);
  const mx::array& w = in[first];
  if (!quantized) {
    dense = {w.data<void>(), kernel_type(w.dtype()), w.shape(0), w.shape(1), w.strides(0)};
    return;
  }
  const MaybeArray biases = shape.has_biases ? MaybeArray(in[first + 2]) : std::nullopt;
  codes = matrix_of(layout_of(w, in[first + 1], biases, shape.group, shape.bits, shape.mode, 2), in, first, encoder);
}

void read_bias(Projection& p, Arena& arena) {
  p.ready_bias = p.bias.read(p.bias.type == Dtype::f32 ? nullptr : (float*)arena.take(sizeof(float) * p.bias.size));
}

void project_each(const Projection* p, int count, Rows rows, const void* x, void* const* out) {
  bool together = rows.few();
  for (int i = 0; i < count; i++) together = together && alike(p[0], p[i]);
  if (!together) {
    for (int i = 0; i < count; i++) project_onto(p[i], rows, x, nullptr, out[i]);
    return;
  }
  QuantizedMatrix w[4];
  const float* bias[4];
  for (int i = 0; i < count; i++) w[i] = p[i].codes, bias[i] = p[i].ready_bias;
  kernels().few_rows({w, count, Join::each, Gate::silu, rows.type, rows.M, &x, out, bias, nullptr, nullptr});
}

void project_gated(const Projection& gate, const Projection& up, Gate act, Rows rows, const void* x, void* out,
                   Arena& arena) {
  if (rows.few() && alike(gate, up)) {
    const QuantizedMatrix w[2] = {gate.codes, up.codes};
    const float* bias[2] = {gate.ready_bias, up.ready_bias};
    kernels().few_rows({w, 2, Join::gated, act, rows.type, rows.M, &x, &out, bias, nullptr, nullptr});
    return;
  }
  void* other = arena.take(size_of(rows.type) * rows.M * up.N());
  project_onto(gate, rows, x, nullptr, out);
  project_onto(up, rows, x, nullptr, other);
  kernels().gated(rows.type, act, out, other, out, int64_t(rows.M) * up.N());
}

void project_onto(const Projection& p, Rows rows, const void* x, const void* residual, void* out) {
  if (p.quantized && rows.few()) {
    kernels().few_rows({&p.codes, 1, Join::sum, Gate::silu, rows.type, rows.M, &x, &out, &p.ready_bias, nullptr, residual});
    return;
  }
  const MatmulRows many{rows.type, x, out, p.ready_bias, rows.M, p.int8 && rows.prompt};
  p.quantized ? kernels().quantized_matmul(p.codes, many) : kernels().dense_matmul(p.dense, many);
  if (residual) add(rows.type, out, residual, out, int64_t(rows.M) * p.N());
}

}  // namespace mlxlm
