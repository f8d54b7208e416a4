// Quantized matmul and embedding look-up as MLX operations.
#include "batches.h"
#include "ops.h"
#include "primitive.h"
#include "quantized_layout.h"

namespace mlxlm {

namespace {

// Inputs: x (..., M, K), then the matrices (..., N, K), or (..., K, N) where not transposed, and a bias (N,) if any.
class QuantizedMatmul : public Kernel {
 public:
  QuantizedMatmul(mx::Stream s, const Layout& l, bool has_bias, bool transpose, bool int8, mx::Shape pairs)
      : Kernel(s), layout_(l), has_bias_(has_bias), transpose_(transpose), int8_(int8), pairs_(std::move(pairs)) {}
  const char* name() const override { return "mlxlm.QuantizedMatmul"; }

  mx::array plain(const std::vector<mx::array>& in) const override {
    auto y = mx::quantized_matmul(in[0], in[1], in[2], biases(in), transpose_, layout_.group, layout_.bits,
                                  layout_.mode(), stream_of());
    if (has_bias_) y = mx::add(y, in.back(), stream_of());
    return mx::astype(y, in[0].dtype(), stream_of());
  }

  void eval_cpu(const std::vector<mx::array>& in, mx::array& out) override {
    allocate(out);
    auto& encoder = mx::cpu::get_command_encoder(stream());
    const QuantizedMatrix first = matrix_of(layout_, in, 1, encoder);
    const bool one = in[1].ndim() == 2;
    const int K = in[0].shape(-1), N = out.shape(-1), M = one ? int(in[0].size() / K) : in[0].shape(-2);
    const std::vector<int32_t> none(1, 0);
    const Vector bias = has_bias_ ? Vector(in.back(), encoder) : Vector();
    // Never rounded: decoding, whatever the batch, and the checking of guesses.
    const bool in_bytes = int8_ && in[0].ndim() > 1 && in[0].shape(-2) > kDecoding;
    encoder.dispatch([first, bias, transpose = transpose_, in_bytes, type = kernel_type(out.dtype()), M, K, N,
                      x = (const char*)row_major(in[0], encoder), to = out.data<char>(),
                      from = one ? none : blocks_of(batch_of(in[0]), pairs_),
                      which = one ? none : blocks_of(batch_of(in[1]), pairs_)] {
      const float* b = bias.read((float*)scratch(kInput, sizeof(float) * (bias.size + 1)));
      const size_t block = size_of(type) * M;
      for_pairs(int64_t(from.size()), [&](int64_t i) {
        const MatmulRows rows{type, x + from[i] * block * K, to + i * block * N, b, M, in_bytes};
        const QuantizedMatrix w = first.at(which[i]);
        transpose ? kernels().quantized_matmul(w, rows) : kernels().quantized_by_columns(w, rows);
      });
    });
  }

  std::vector<mx::array> vjp(const std::vector<mx::array>& in, const std::vector<mx::array>& cotangents,
                             const std::vector<int>& argnums, const std::vector<mx::array>& outputs) override {
    const mx::array& y = cotangents[0];
    std::vector<mx::array> out;
    for (int i : argnums) {
      if (i == 0)
        out.push_back(summed_to(op_quantized_matmul(y, in[1], in[2], biases(in), !transpose_, layout_.group,
                                                    layout_.bits, layout_.mode()), in[0]));
      else if (has_bias_ && i + 1 == int(in.size())) out.push_back(summed_to(y, in[i]));
      else out.push_back(Kernel::vjp(in, cotangents, {i}, outputs)[0]);
    }
    return out;
  }

 private:
  mx::Stream stream_of() const { return const_cast<QuantizedMatmul*>(this)->stream(); }
  MaybeArray biases(const std::vector<mx::array>& in) const {
    return layout_.affine() ? MaybeArray(in[3]) : std::nullopt;
  }
  Layout layout_;
  bool has_bias_, transpose_, int8_;
  const mx::Shape pairs_;
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

static mx::array multiplied(const mx::array& x, const mx::array& w, const mx::array& scales, const MaybeArray& biases,
                            const MaybeArray& bias, bool transpose, std::optional<int> group_size,
                            std::optional<int> bits, const std::string& mode, bool int8 = false) {
  const Layout l = layout_of(w, scales, biases, group_size, bits, mode, w.ndim());
  bool fits = l.valid && on_cpu() && is_kernel_float(x.dtype()) && x.size() > 0 && w.ndim() > 1 &&
              x.ndim() > (w.ndim() == 2 ? 0 : 1);
  const int wide = fits ? scales.shape(-1) * l.group : 0, N = fits && transpose ? w.shape(-2) : wide;
  fits = fits && x.shape(-1) == (transpose ? wide : w.shape(-2)) &&
         (!bias || (is_kernel_float(bias->dtype()) && bias->ndim() == 1 && bias->shape(0) == N));
  std::optional<mx::Shape> pairs;
  if (fits) pairs = w.ndim() == 2 ? mx::Shape() : broadcast(batch_of(x), batch_of(w));
  if (!pairs) {
    auto y = mx::quantized_matmul(x, w, scales, biases, transpose, group_size, bits, mode);
    return mx::astype(bias ? mx::add(y, *bias) : y, x.dtype());
  }
  std::vector<mx::array> inputs{x, w, scales};
  if (biases) inputs.push_back(*biases);
  if (bias) inputs.push_back(*bias);
  auto shape = w.ndim() == 2 ? x.shape() : *pairs;
  if (w.ndim() == 2) shape.pop_back();
  else shape.push_back(x.shape(-2));
  shape.push_back(N);
  auto kernel = std::make_shared<QuantizedMatmul>(cpu_stream(), l, bias.has_value(), transpose, int8, *pairs);
  return mx::array(std::move(shape), x.dtype(), std::move(kernel), std::move(inputs));
}

mx::array op_quantized_linear(const mx::array& x, const mx::array& w, const mx::array& scales, const MaybeArray& biases,
                              const MaybeArray& bias, std::optional<int> group_size, std::optional<int> bits,
                              const std::string& mode, bool int8) {
  return multiplied(x, w, scales, biases, bias, true, group_size, bits, mode, int8);
}

mx::array op_quantized_matmul(const mx::array& x, const mx::array& w, const mx::array& scales, const MaybeArray& biases,
                              bool transpose, std::optional<int> group_size, std::optional<int> bits,
                              const std::string& mode) {
  return multiplied(x, w, scales, biases, std::nullopt, transpose, group_size, bits, mode);
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
