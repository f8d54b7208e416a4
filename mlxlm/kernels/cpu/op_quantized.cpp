// Quantized matmul and embedding look-up as MLX operations.
#include "ops.h"
#include "primitive.h"
#include "quantized_layout.h"

namespace mlxlm {

namespace {

class QuantizedMatmul : public Kernel {
 public:
  QuantizedMatmul(mx::Stream s, const Layout& l, bool has_bias) : Kernel(s), layout_(l), has_bias_(has_bias) {}
  const char* name() const override { return "mlxlm.QuantizedMatmul"; }

  mx::array plain(const std::vector<mx::array>& in) const override {
    MaybeArray biases;
    if (layout_.format == Format::affine) biases = in[3];
    auto y = mx::quantized_matmul(in[0], in[1], in[2], biases, true, layout_.group, layout_.bits, layout_.mode(),
                                  stream_of());
    if (has_bias_) y = mx::add(y, in.back(), stream_of());
    return mx::astype(y, in[0].dtype(), stream_of());
  }

  void eval_cpu(const std::vector<mx::array>& in, mx::array& out) override {
    allocate(out);
    auto& encoder = mx::cpu::get_command_encoder(stream());
    const QuantizedMatrix w = matrix_of(layout_, in, 1, encoder);
    MatmulRows rows{kernel_type(out.dtype()), row_major(in[0], encoder), out.data<void>(), nullptr,
                          int(in[0].size() / w.K)};
    const Vector bias = has_bias_ ? Vector(in.back(), encoder) : Vector();
    encoder.dispatch([w, rows, bias]() mutable {
      rows.bias = bias.read((float*)scratch(kInput, sizeof(float) * (bias.size + 1)));
      kernels().quantized_matmul(w, rows);
    });
  }

 private:
  mx::Stream stream_of() const { return const_cast<QuantizedMatmul*>(this)->stream(); }
  Layout layout_;
  bool has_bias_;
};

// Rows of a table as numbers of dtype `type`, or by default the scales'. MLX would round them to the scales' first.
mx::array plain_rows(const mx::array& indices, const mx::array& w, const mx::array& scales, const MaybeArray& biases,
                     std::optional<int> group, std::optional<int> bits, const std::string& mode,
                     const std::optional<mx::Dtype>& type) {
  auto take = [&](const mx::array& a) { return mx::take(a, indices, 0); };
  if (!biases || !type) return mx::dequantize(take(w), take(scales), biases ? MaybeArray(take(*biases)) : std::nullopt,
                                              group, bits, mode, std::nullopt, type);
  const mx::Dtype wide = mx::promote_types(scales.dtype(), *type);
  auto y = mx::dequantize(take(w), mx::astype(take(scales), wide), mx::astype(take(*biases), wide), group, bits, mode);
  return mx::astype(y, *type);
}

class QuantizedRows : public Kernel {
 public:
  QuantizedRows(mx::Stream s, const Layout& l, mx::Dtype type) : Kernel(s), layout_(l), type_(type) {}
  const char* name() const override { return "mlxlm.QuantizedRows"; }

  mx::array plain(const std::vector<mx::array>& in) const override {
    return plain_rows(in[0], in[1], in[2], layout_.affine() ? MaybeArray(in[3]) : std::nullopt, layout_.group,
                      layout_.bits, layout_.mode(), type_);
  }

  void eval_cpu(const std::vector<mx::array>& in, mx::array& out) override {
    allocate(out);
    auto& encoder = mx::cpu::get_command_encoder(stream());
    const QuantizedMatrix w = matrix_of(layout_, in, 1, encoder);
    encoder.dispatch([w, given = (const int64_t*)row_major(in[0], encoder), count = int64_t(in[0].size()),
                      type = kernel_type(out.dtype()), to = out.data<void>()] {
      int64_t* rows = (int64_t*)scratch(kInput, sizeof(int64_t) * count);
      for (int64_t i = 0; i < count; i++) {
        int64_t row = given[i] < 0 ? given[i] + w.N : given[i];
        rows[i] = row < 0 ? 0 : row >= w.N ? w.N - 1 : row;  // an index out of range must not read past the table
      }
      kernels().quantized_rows(w, rows, count, type, to);
    });
  }

 private:
  Layout layout_;
  mx::Dtype type_;
};

}  // namespace

mx::array op_quantized_linear(const mx::array& x, const mx::array& w, const mx::array& scales, const MaybeArray& biases,
                              const MaybeArray& bias, std::optional<int> group_size, std::optional<int> bits,
                              const std::string& mode) {
  const Layout l = layout_of(w, scales, biases, group_size, bits, mode, 2);
  const bool fits = l.valid && on_cpu() && is_kernel_float(x.dtype()) && x.ndim() > 0 && x.size() > 0 &&
                    x.shape(-1) == scales.shape(1) * l.group && (!bias || is_kernel_float(bias->dtype())) &&
                    (!bias || (bias->ndim() == 1 && bias->shape(0) == w.shape(0)));
  if (!fits) {
    auto y = mx::quantized_matmul(x, w, scales, biases, true, group_size, bits, mode);
    return mx::astype(bias ? mx::add(y, *bias) : y, x.dtype());
  }
  std::vector<mx::array> inputs{x, w, scales};
  if (biases) inputs.push_back(*biases);
  if (bias) inputs.push_back(*bias);
  auto shape = x.shape();
  shape.back() = w.shape(0);
  auto kernel = std::make_shared<QuantizedMatmul>(cpu_stream(), l, bias.has_value());
  return mx::array(std::move(shape), x.dtype(), std::move(kernel), std::move(inputs));
}

mx::array op_quantized_matmul(const mx::array& x, const mx::array& w, const mx::array& scales, const MaybeArray& biases,
                              bool transpose, std::optional<int> group_size, std::optional<int> bits,
                              const std::string& mode) {
  if (transpose) return op_quantized_linear(x, w, scales, biases, std::nullopt, group_size, bits, mode);
  return mx::astype(mx::quantized_matmul(x, w, scales, biases, false, group_size, bits, mode), x.dtype());
}

mx::array op_quantized_embedding(const mx::array& indices, const mx::array& w, const mx::array& scales,
                                 const MaybeArray& biases, std::optional<int> group_size, std::optional<int> bits,
                                 const std::string& mode, const std::optional<mx::Dtype>& dtype) {
  const Layout l = layout_of(w, scales, biases, group_size, bits, mode, 2);
  const mx::Dtype type = dtype.value_or(l.format == Format::affine ? scales.dtype() : mx::bfloat16);
  if (!l.valid || !on_cpu() || !is_kernel_float(type) || indices.size() == 0 ||
      !mx::issubdtype(indices.dtype(), mx::integer))
    return plain_rows(indices, w, scales, biases, group_size, bits, mode, dtype);
  std::vector<mx::array> inputs{mx::astype(indices, mx::int64), w, scales};
  if (biases) inputs.push_back(*biases);
  auto shape = indices.shape();
  shape.push_back(scales.shape(1) * l.group);
  return mx::array(std::move(shape), type, std::make_shared<QuantizedRows>(cpu_stream(), l, type), std::move(inputs));
}

}  // namespace mlxlm
