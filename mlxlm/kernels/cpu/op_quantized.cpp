// Quantized matmul and embedding look-up as MLX operations.
#include "ops.h"
#include "primitive.h"

namespace mlxlm {

namespace {

// What a quantized matrix's arrays and their dtypes mean; `valid` is false where the kernels don't know them.
struct Layout {
  int group = 0, bits = 0;
  Format format = Format::affine;
  ScaleType scale_type = ScaleType::f32;
  bool valid = false;
};

Layout layout_of(const mx::array& w, const mx::array& scales, const MaybeArray& biases, std::optional<int> group,
                 std::optional<int> bits, const std::string& mode) {
  Layout l;
  if (w.dtype() != mx::uint32 || w.ndim() != 2 || scales.ndim() != 2 || w.shape(0) != scales.shape(0)) return l;
  if (mode == "affine") {
    l.group = group.value_or(64), l.bits = bits.value_or(4);
    if (!biases || biases->shape() != scales.shape() || biases->dtype() != scales.dtype()) return l;
    if (!is_kernel_float(scales.dtype())) return l;
    if (l.group != 32 && l.group != 64 && l.group != 128) return l;
    if (l.bits < 2 || l.bits > 8 || l.bits == 7) return l;
    l.scale_type = ScaleType(int(kernel_type(scales.dtype())));
  } else {
    const bool fp8 = mode == "mxfp8", nv = mode == "nvfp4";
    if (biases || scales.dtype() != mx::uint8 || !(fp8 || nv || mode == "mxfp4")) return l;
    l.group = group.value_or(nv ? 16 : 32), l.bits = bits.value_or(fp8 ? 8 : 4);
    if (l.group != (nv ? 16 : 32) || l.bits != (fp8 ? 8 : 4)) return l;
    l.format = fp8 ? Format::fp8 : Format::fp4;
    l.scale_type = nv ? ScaleType::e4m3 : ScaleType::e8m0;
  }
  l.valid = int64_t(w.shape(1)) * 32 == int64_t(scales.shape(1)) * l.group * l.bits && w.size() > 0;
  return l;
}

std::string mode_of(const Layout& l) {
  if (l.format == Format::affine) return "affine";
  return l.format == Format::fp8 ? "mxfp8" : l.group == 16 ? "nvfp4" : "mxfp4";
}

// inputs[first ..] are the codes, the scales and, when affine, the biases.
QuantizedMatrix matrix_of(const Layout& l, const std::vector<mx::array>& inputs, int first,
                          mx::cpu::CommandEncoder& encoder) {
  const mx::array &w = inputs[first], &scales = inputs[first + 1];
  const bool affine = l.format == Format::affine;
  return {(const uint8_t*)row_major(w, encoder),
          row_major(scales, encoder),
          affine ? row_major(inputs[first + 2], encoder) : nullptr,
          l.scale_type,
          l.format,
          l.bits,
          l.group,
          int(w.shape(0)),
          int(scales.shape(1)) * l.group};
}

class QuantizedMatmul : public Kernel {
 public:
  QuantizedMatmul(mx::Stream s, const Layout& l, bool has_bias) : Kernel(s), layout_(l), has_bias_(has_bias) {}
  const char* name() const override { return "mlxlm.QuantizedMatmul"; }

  mx::array plain(const std::vector<mx::array>& in) const override {
    MaybeArray biases;
    if (layout_.format == Format::affine) biases = in[3];
    auto y = mx::quantized_matmul(in[0], in[1], in[2], biases, true, layout_.group, layout_.bits, mode_of(layout_),
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

class QuantizedRows : public Kernel {
 public:
  QuantizedRows(mx::Stream s, const Layout& l) : Kernel(s), layout_(l) {}
  const char* name() const override { return "mlxlm.QuantizedRows"; }

  mx::array plain(const std::vector<mx::array>& in) const override {
    auto take = [&](int i) { return mx::take(in[i], in[0], 0); };
    MaybeArray biases;
    if (layout_.format == Format::affine) biases = take(3);
    return mx::dequantize(take(1), take(2), biases, layout_.group, layout_.bits, mode_of(layout_));
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
};

}  // namespace

mx::array op_quantized_linear(const mx::array& x, const mx::array& w, const mx::array& scales, const MaybeArray& biases,
                              const MaybeArray& bias, std::optional<int> group_size, std::optional<int> bits,
                              const std::string& mode) {
  const Layout l = layout_of(w, scales, biases, group_size, bits, mode);
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
  const Layout l = layout_of(w, scales, biases, group_size, bits, mode);
  const mx::Dtype type = dtype.value_or(l.format == Format::affine ? scales.dtype() : mx::bfloat16);
  if (!l.valid || !on_cpu() || !is_kernel_float(type) || indices.size() == 0 ||
      !mx::issubdtype(indices.dtype(), mx::integer)) {
    auto take = [&](const mx::array& a) { return mx::take(a, indices, 0); };
    return mx::dequantize(take(w), take(scales), biases ? MaybeArray(take(*biases)) : std::nullopt, group_size, bits,
                          mode, std::nullopt, dtype);
  }
  std::vector<mx::array> inputs{mx::astype(indices, mx::int64), w, scales};
  if (biases) inputs.push_back(*biases);
  auto shape = indices.shape();
  shape.push_back(scales.shape(1) * l.group);
  return mx::array(std::move(shape), type, std::make_shared<QuantizedRows>(cpu_stream(), l), std::move(inputs));
}

}  // namespace mlxlm
