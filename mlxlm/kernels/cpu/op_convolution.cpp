// Convolutions of images as an MLX operation.
#include "ops.h"
#include "primitive.h"

namespace mlxlm {

namespace {

struct ConvolutionShape {
  int stride[2], before[2], after[2], dilation[2], groups;

  // Output positions along an axis, or 0 where the kernel doesn't fit.
  int out(int axis, int in, int kernel) const {
    const int64_t room = int64_t(in) + before[axis] + after[axis] - int64_t(dilation[axis]) * (kernel - 1) - 1;
    return room < 0 ? 0 : int(room / stride[axis]) + 1;
  }
  mx::array plain(const mx::array& x, const mx::array& weight) const {
    const auto both = [](const int* v) { return std::vector<int>{v[0], v[1]}; };
    return mx::conv_general(x, weight, both(stride), both(before), both(after), both(dilation), std::vector<int>{1, 1},
                            groups);
  }
};

// Inputs: x (N, H, W, C), weight (O, kernel, kernel, C / groups), bias (O,) if any.
class Conv2d : public Kernel {
 public:
  Conv2d(mx::Stream s, const ConvolutionShape& shape) : Kernel(s), shape_(shape) {}
  const char* name() const override { return "mlxlm.Conv2d"; }

  mx::array plain(const std::vector<mx::array>& in) const override {
    auto y = shape_.plain(in[0], in[1]);
    return in.size() > 2 ? mx::add(y, in[2]) : y;
  }

  void eval_cpu(const std::vector<mx::array>& in, mx::array& out) override {
    allocate(out);
    auto& encoder = mx::cpu::get_command_encoder(stream());
    const mx::array &x = in[0], &w = in[1];
    Convolution2d c{kernel_type(out.dtype()), kernel_type(w.dtype()), row_major(x, encoder), row_major(w, encoder),
                    out.data<void>(), nullptr, x.shape(0), x.shape(3), w.shape(0), shape_.groups};
    for (int i = 0; i < 2; i++) {
      c.in[i] = x.shape(1 + i), c.out[i] = out.shape(1 + i), c.kernel[i] = w.shape(1 + i);
      c.stride[i] = shape_.stride[i], c.before[i] = shape_.before[i], c.dilation[i] = shape_.dilation[i];
    }
    const Vector bias = in.size() > 2 ? Vector(in[2], encoder) : Vector();
    encoder.dispatch([c, bias]() mutable {
      c.bias = bias.read((float*)scratch(kInput, sizeof(float) * (bias.size + 1)));
      kernels().conv2d(c);
    });
  }

 private:
  const ConvolutionShape shape_;
};

}  // namespace

mx::array op_conv2d(const mx::array& x, const mx::array& weight, const MaybeArray& bias, std::pair<int, int> stride,
                    std::pair<std::pair<int, int>, std::pair<int, int>> padding, std::pair<int, int> dilation, int groups) {
  const auto [rows, columns] = padding;
  const ConvolutionShape s{{stride.first, stride.second}, {rows.first, columns.first}, {rows.second, columns.second},
                           {dilation.first, dilation.second}, groups};
  bool fits = on_cpu() && is_kernel_float(x.dtype()) && is_kernel_float(weight.dtype()) && x.ndim() == 4 &&
              weight.ndim() == 4 && x.size() > 0 && weight.size() > 0 && groups > 0 && x.shape(3) % groups == 0 &&
              weight.shape(0) % groups == 0 && weight.shape(3) == x.shape(3) / groups &&
              (!bias || (is_kernel_float(bias->dtype()) && bias->shape() == mx::Shape({weight.shape(0)})));
  for (int i = 0; fits && i < 2; i++) {
    fits = s.stride[i] > 0 && s.dilation[i] > 0 && s.before[i] >= 0 && s.after[i] >= 0;
    // MLX divides by the size of nothing.
    if (fits && s.out(i, x.shape(1 + i), weight.shape(1 + i)) == 0)
      throw std::invalid_argument("[conv2d] the kernel is larger than the padded image");
  }
  if (!fits) {
    auto y = s.plain(x, weight);
    return bias ? mx::add(y, *bias) : y;
  }
  mx::Dtype type = mx::result_type(x, weight);
  if (bias) type = mx::promote_types(type, bias->dtype());
  std::vector<mx::array> inputs{mx::astype(x, type), weight};
  if (bias) inputs.push_back(*bias);
  mx::Shape shape{x.shape(0), s.out(0, x.shape(1), weight.shape(1)), s.out(1, x.shape(2), weight.shape(2)), weight.shape(0)};
  return mx::array(std::move(shape), type, std::make_shared<Conv2d>(cpu_stream(), s), std::move(inputs));
}

}  // namespace mlxlm
