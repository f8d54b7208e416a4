// Norms, gates and the choice of the largest as MLX operations.
#include "ops.h"
#include "primitive.h"

namespace mlxlm {

namespace {

class RMSNorm : public Kernel {
 public:
  RMSNorm(mx::Stream s, float eps) : Kernel(s), eps_(eps) {}
  const char* name() const override { return "mlxlm.RMSNorm"; }

  mx::array plain(const std::vector<mx::array>& in) const override {
    return mx::fast::rms_norm(in[0], in.size() > 1 ? MaybeArray(in[1]) : std::nullopt, eps_);
  }

  void eval_cpu(const std::vector<mx::array>& in, mx::array& out) override {
    allocate(out);
    auto& encoder = mx::cpu::get_command_encoder(stream());
    const int D = in[0].shape(-1);
    const Vector weight = in.size() > 1 ? Vector(in[1], encoder) : Vector();
    encoder.dispatch([=, x = row_major(in[0], encoder), type = kernel_type(in[0].dtype()), to = out.data<void>(),
                      out_type = kernel_type(out.dtype()), rows = int64_t(out.size()) / D, eps = eps_] {
      const float* w = weight.read((float*)scratch(kInput, sizeof(float) * D));
      kernels().rms_norm(type, x, w, eps, to, out_type, rows, D);
    });
  }

 private:
  float eps_;
};

class LayerNorm : public Kernel {
 public:
  LayerNorm(mx::Stream s, float eps, bool has_weight, bool has_bias)
      : Kernel(s), eps_(eps), has_weight_(has_weight), has_bias_(has_bias) {}
  const char* name() const override { return "mlxlm.LayerNorm"; }

  mx::array plain(const std::vector<mx::array>& in) const override {
    return mx::fast::layer_norm(in[0], has_weight_ ? MaybeArray(in[1]) : std::nullopt,
                                has_bias_ ? MaybeArray(in.back()) : std::nullopt, eps_);
  }

  void eval_cpu(const std::vector<mx::array>& in, mx::array& out) override {
    allocate(out);
    auto& encoder = mx::cpu::get_command_encoder(stream());
    const int D = in[0].shape(-1);
    const Vector weight = has_weight_ ? Vector(in[1], encoder) : Vector();
    const Vector bias = has_bias_ ? Vector(in.back(), encoder) : Vector();
    encoder.dispatch([=, x = row_major(in[0], encoder), type = kernel_type(in[0].dtype()), to = out.data<void>(),
                      out_type = kernel_type(out.dtype()), rows = int64_t(out.size()) / D, eps = eps_] {
      float* buffer = (float*)scratch(kInput, sizeof(float) * 2 * D);
      kernels().layer_norm(type, x, weight.read(buffer), bias.read(buffer + D), eps, to, out_type, rows, D);
    });
  }

 private:
  float eps_;
  bool has_weight_, has_bias_;
};

// gelu(x) by its tanh form, in MLX's operations.
mx::array plain_gelu(const mx::array& x) {
  auto number = [&](float f) { return mx::array(f, x.dtype()); };
  auto cube = mx::multiply(mx::multiply(x, x), x);
  auto u = mx::multiply(number(0.7978845608f), mx::add(x, mx::multiply(number(0.044715f), cube)));
  return mx::multiply(mx::multiply(number(0.5f), x), mx::add(number(1), mx::tanh(u)));
}

mx::array plain_opened(Gate kind, const mx::array& x) {
  auto number = [&](float f) { return mx::array(f, x.dtype()); };
  switch (kind) {
    case Gate::silu: return mx::multiply(x, mx::sigmoid(x));
    case Gate::gelu_tanh: return plain_gelu(x);
    case Gate::squared_relu: return mx::square(mx::maximum(x, number(0)));
    case Gate::gelu:
      return mx::divide(mx::multiply(x, mx::add(number(1), mx::erf(mx::multiply(x, number(0.70710678118f))))), number(2));
    default: return mx::multiply(x, mx::sigmoid(mx::multiply(number(1.702f), x)));
  }
}

mx::array plain_gated(Gate kind, const mx::array& gate, const MaybeArray& up) {
  return up ? mx::multiply(plain_opened(kind, gate), *up) : plain_opened(kind, gate);
}

class Gated : public Kernel {
 public:
  Gated(mx::Stream s, Gate kind) : Kernel(s), kind_(kind) {}
  const char* name() const override { return "mlxlm.Gated"; }

  mx::array plain(const std::vector<mx::array>& in) const override {
    return plain_gated(kind_, in[0], in.size() > 1 ? MaybeArray(in[1]) : std::nullopt);
  }

  void eval_cpu(const std::vector<mx::array>& in, mx::array& out) override {
    allocate(out);
    auto& encoder = mx::cpu::get_command_encoder(stream());
    const void* up = in.size() > 1 ? row_major(in[1], encoder) : nullptr;
    encoder.dispatch([gate = row_major(in[0], encoder), up, to = out.data<void>(), kind = kind_,
                      type = kernel_type(out.dtype()), count = int64_t(out.size())] {
      kernels().gated(type, kind, gate, up, to, count);
    });
  }

 private:
  Gate kind_;
};

class ArgMax : public Kernel {
 public:
  using Kernel::Kernel;
  const char* name() const override { return "mlxlm.ArgMax"; }

  mx::array plain(const std::vector<mx::array>& in) const override { return mx::argmax(in[0], -1); }

  void eval_cpu(const std::vector<mx::array>& in, mx::array& out) override {
    allocate(out);
    auto& encoder = mx::cpu::get_command_encoder(stream());
    encoder.dispatch([x = row_major(in[0], encoder), type = kernel_type(in[0].dtype()), to = out.data<uint32_t>(),
                      rows = int64_t(out.size()), D = in[0].shape(-1)] { kernels().argmax(type, x, to, rows, D); });
  }
};

bool is_vector_of(const MaybeArray& a, int size) {
  return !a || (a->ndim() == 1 && a->shape(0) == size && is_kernel_float(a->dtype()));
}

}  // namespace

mx::array op_rms_norm(const mx::array& x, const MaybeArray& weight, float eps) {
  if (!on_cpu() || !is_kernel_float(x.dtype()) || x.ndim() == 0 || x.size() == 0 || !is_vector_of(weight, x.shape(-1)))
    return mx::fast::rms_norm(x, weight, eps);
  std::vector<mx::array> inputs{x};
  if (weight) inputs.push_back(*weight);
  return mx::array(x.shape(), mx::result_type(inputs), std::make_shared<RMSNorm>(cpu_stream(), eps), inputs);
}

mx::array op_layer_norm(const mx::array& x, const MaybeArray& weight, const MaybeArray& bias, float eps) {
  if (!on_cpu() || !is_kernel_float(x.dtype()) || x.ndim() == 0 || x.size() == 0 ||
      !is_vector_of(weight, x.shape(-1)) || !is_vector_of(bias, x.shape(-1)))
    return mx::fast::layer_norm(x, weight, bias, eps);
  std::vector<mx::array> inputs{x};
  if (weight) inputs.push_back(*weight);
  if (bias) inputs.push_back(*bias);
  auto kernel = std::make_shared<LayerNorm>(cpu_stream(), eps, weight.has_value(), bias.has_value());
  return mx::array(x.shape(), mx::result_type(inputs), std::move(kernel), inputs);
}

mx::array op_argmax(const mx::array& x) {
  if (!on_cpu() || !is_kernel_float(x.dtype()) || x.ndim() == 0 || x.size() == 0) return mx::argmax(x, -1);
  auto shape = x.shape();
  shape.pop_back();
  return mx::array(std::move(shape), mx::uint32, std::make_shared<ArgMax>(cpu_stream()), {x});
}

mx::array op_gated(Gate kind, const mx::array& gate, const MaybeArray& up) {
  if (!on_cpu() || !is_kernel_float(gate.dtype()) || gate.size() == 0 ||
      (up && (gate.dtype() != up->dtype() || gate.shape() != up->shape())))
    return plain_gated(kind, gate, up);
  std::vector<mx::array> inputs{gate};
  if (up) inputs.push_back(*up);
  return mx::array(gate.shape(), gate.dtype(), std::make_shared<Gated>(cpu_stream(), kind), std::move(inputs));
}

mx::array op_silu(const mx::array& x) { return op_gated(Gate::silu, x, std::nullopt); }

mx::array op_relu2(const mx::array& x) { return op_gated(Gate::squared_relu, x, std::nullopt); }

mx::array op_gelu(const mx::array& x) { return op_gated(Gate::gelu, x, std::nullopt); }

mx::array op_gelu_tanh(const mx::array& x) { return op_gated(Gate::gelu_tanh, x, std::nullopt); }

mx::array op_quick_gelu(const mx::array& x) { return op_gated(Gate::quick_gelu, x, std::nullopt); }

mx::array op_swiglu(const mx::array& gate, const mx::array& up) { return op_gated(Gate::silu, gate, up); }

mx::array op_geglu(const mx::array& gate, const mx::array& up) { return op_gated(Gate::gelu_tanh, gate, up); }

}  // namespace mlxlm
