// Matmul with float weights as an MLX operation.
#include "ops.h"
#include "primitive.h"

namespace mlxlm {

namespace {

class Linear : public Kernel {
 public:
  explicit Linear(mx::Stream s) : Kernel(s) {}
  const char* name() const override { return "mlxlm.Linear"; }

  mx::array plain(const std::vector<mx::array>& in) const override {
    auto y = mx::matmul(in[0], mx::swapaxes(in[1], -1, -2));
    return in.size() > 2 ? mx::add(y, in[2]) : y;
  }

  void eval_cpu(const std::vector<mx::array>& in, mx::array& out) override {
    allocate(out);
    auto& encoder = mx::cpu::get_command_encoder(stream());
    mx::array w = in[1];
    make_rows(w, encoder);
    const DenseMatrix matrix{w.data<void>(), kernel_type(w.dtype()), w.shape(0), w.shape(1), w.strides(0)};
    MatmulRows rows{kernel_type(out.dtype()), row_major(in[0], encoder), out.data<void>(), nullptr,
                          int(in[0].size() / matrix.K)};
    const Vector bias = in.size() > 2 ? Vector(in[2], encoder) : Vector();
    encoder.dispatch([matrix, rows, bias]() mutable {
      rows.bias = bias.read((float*)scratch(kInput, sizeof(float) * (bias.size + 1)));
      kernels().dense_matmul(matrix, rows);
    });
  }

  std::vector<mx::array> vjp(const std::vector<mx::array>& in, const std::vector<mx::array>& cotangents,
                             const std::vector<int>& argnums, const std::vector<mx::array>&) override {
    const mx::array &y = cotangents[0], rows = mx::reshape(y, {-1, y.shape(-1)});
    std::vector<mx::array> out;
    for (int i : argnums) {
      if (i == 0) out.push_back(mx::astype(op_matmul(y, in[1]), in[0].dtype()));
      else if (i == 2) out.push_back(summed_to(rows, in[2]));
      else out.push_back(mx::astype(op_matmul(mx::transpose(rows), mx::reshape(in[0], {-1, in[0].shape(-1)})), in[1].dtype()));
    }
    return out;
  }
};

}  // namespace

mx::array op_linear(const mx::array& x, const mx::array& weight, const MaybeArray& bias) {
  const bool fits = on_cpu() && is_kernel_float(x.dtype()) && is_kernel_float(weight.dtype()) && weight.ndim() == 2 &&
                    x.ndim() > 0 && x.shape(-1) == weight.shape(1) && x.size() > 0 && weight.size() > 0 &&
                    (!bias || (is_kernel_float(bias->dtype()) && bias->ndim() == 1 && bias->shape(0) == weight.shape(0)));
  if (!fits) {
    auto y = weight.ndim() < 2 ? mx::matmul(x, weight) : op_matmul(x, mx::swapaxes(weight, -1, -2));
    return bias ? mx::add(y, *bias) : y;
  }
  mx::Dtype type = mx::result_type(x, weight);
  if (bias) type = mx::promote_types(type, bias->dtype());
  std::vector<mx::array> inputs{mx::astype(x, type), weight};
  if (bias) inputs.push_back(*bias);
  auto shape = x.shape();
  shape.back() = weight.shape(0);
  return mx::array(std::move(shape), type, std::make_shared<Linear>(cpu_stream()), std::move(inputs));
}

}  // namespace mlxlm
