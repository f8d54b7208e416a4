// Short convolutions, and the scans of Mamba 1 and 2 and of the gated delta rule as MLX operations. The scans have no
// gradient: mlxlm.kernels.recurrent adds the plain twin's.
#include "ops.h"
#include "primitive.h"

namespace mlxlm {

namespace {

using Run = void (*)(const std::vector<const float*>& in, float* y, float* last, const std::vector<int>& sizes);

// All inputs f32, the state last; outputs y and the state after the last position.
class Recurrence : public mx::Primitive {
 public:
  Recurrence(mx::Stream s, const char* name, Run run, std::vector<int> sizes)
      : mx::Primitive(s), name_(name), run_(run), sizes_(std::move(sizes)) {}
  const char* name() const override { return name_; }

  void eval_cpu(const std::vector<mx::array>& in, std::vector<mx::array>& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    std::vector<const float*> data;
    for (const mx::array& a : in) data.push_back((const float*)row_major(a, encoder));
    allocate(out[0]);
    allocate(out[1]);
    encoder.dispatch([data, y = out[0].data<float>(), last = out[1].data<float>(), run = run_, sizes = sizes_] {
      run(data, y, last, sizes);
    });
  }
  void eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) override {
    throw std::runtime_error(std::string(name_) + " runs on the CPU only");
  }

 private:
  const char* name_;
  Run run_;
  std::vector<int> sizes_;
};

std::pair<mx::array, mx::array> recur(const char* name, Run run, std::vector<int> sizes, std::vector<mx::array> inputs,
                                      const mx::Shape& y) {
  for (auto& a : inputs) a = mx::astype(a, mx::float32);
  const mx::Shape state = inputs.back().shape();
  auto out = mx::array::make_arrays({y, state}, {mx::float32, mx::float32},
                                    std::make_shared<Recurrence>(cpu_stream(), name, run, std::move(sizes)), inputs);
  return {out[0], out[1]};
}

void expect(bool fits, const char* what) {
  if (!fits) throw std::invalid_argument(what);
}

class CausalConv : public Kernel {
 public:
  explicit CausalConv(mx::Stream s) : Kernel(s) {}
  const char* name() const override { return "mlxlm.CausalConv"; }

  mx::array plain(const std::vector<mx::array>& in) const override {
    auto y = mx::conv1d(in[0], in[1], 1, 0, 1, in[0].shape(2));
    return in.size() > 2 ? mx::add(y, in[2]) : y;
  }

  void eval_cpu(const std::vector<mx::array>& in, mx::array& out) override {
    allocate(out);
    auto& encoder = mx::cpu::get_command_encoder(stream());
    const int width = in[1].shape(1), C = in[0].shape(2);
    const Vector weight(in[1], encoder), bias = in.size() > 2 ? Vector(in[2], encoder) : Vector();
    encoder.dispatch([=, x = row_major(in[0], encoder), to = out.data<void>(), type = kernel_type(out.dtype()),
                      B = out.shape(0), L = out.shape(1)] {
      float* turned = (float*)scratch(kInput, sizeof(float) * (2 * weight.size + bias.size));
      const float *own = weight.read(turned + weight.size), *b = bias.read(turned + 2 * weight.size);
      for (int c = 0; c < C; c++)
        for (int k = 0; k < width; k++) turned[k * C + c] = own[c * width + k];
      kernels().causal_conv({type, x, to, turned, b, B, L, C, width});
    });
  }
};

}  // namespace

mx::array op_causal_conv(const mx::array& x, const mx::array& weight, const MaybeArray& bias) {
  const bool fits = on_cpu() && x.ndim() == 3 && weight.ndim() == 3 && weight.shape(2) == 1 &&
                    weight.shape(0) == x.shape(2) && x.size() > 0 && weight.shape(1) > 0 &&
                    x.shape(1) >= weight.shape(1) && is_kernel_float(x.dtype()) && weight.dtype() == x.dtype() &&
                    (!bias || (bias->dtype() == x.dtype() && bias->shape() == mx::Shape({x.shape(2)})));
  std::vector<mx::array> inputs{x, weight};
  if (bias) inputs.push_back(*bias);
  auto kernel = std::make_shared<CausalConv>(cpu_stream());
  if (!fits) return kernel->plain(inputs);
  const mx::Shape shape{x.shape(0), x.shape(1) - weight.shape(1) + 1, x.shape(2)};
  return mx::array(shape, x.dtype(), std::move(kernel), std::move(inputs));
}

std::pair<mx::array, mx::array> op_selective_scan(const mx::array& x, const mx::array& dt, const mx::array& a,
                                                  const mx::array& b, const mx::array& c, const MaybeArray& state) {
  expect(x.ndim() == 3 && a.ndim() == 2, "selective_scan takes x (B, L, C) and a (C, N)");
  const int B = x.shape(0), L = x.shape(1), C = x.shape(2), N = a.shape(1);
  const mx::array first = state ? *state : mx::zeros({B, C, N}, mx::float32);
  expect(dt.shape() == x.shape() && a.shape(0) == C && b.shape() == mx::Shape({B, L, N}) && c.shape() == b.shape() &&
             first.shape() == mx::Shape({B, C, N}),
         "selective_scan: the arrays' shapes don't belong together");
  const Run run = [](const std::vector<const float*>& in, float* y, float* last, const std::vector<int>& n) {
    kernels().selective_scan({in[0], in[1], in[2], in[3], in[4], in[5], y, last, n[0], n[1], n[2], n[3]});
  };
  return recur("mlxlm.SelectiveScan", run, {B, L, C, N}, {x, dt, a, b, c, first}, x.shape());
}

std::pair<mx::array, mx::array> op_ssm_scan(const mx::array& x, const mx::array& dt, const mx::array& a,
                                            const mx::array& b, const mx::array& c, const MaybeArray& state) {
  expect(x.ndim() == 4 && b.ndim() == 4, "ssm_scan takes x (B, L, H, P) and b (B, L, G, N)");
  const int B = x.shape(0), L = x.shape(1), H = x.shape(2), P = x.shape(3), G = b.shape(2), N = b.shape(3);
  const mx::array first = state ? *state : mx::zeros({B, H, P, N}, mx::float32);
  expect(b.shape(0) == B && b.shape(1) == L && c.shape() == b.shape() && dt.shape() == mx::Shape({B, L, H}) &&
             a.shape() == mx::Shape({H}) && first.shape() == mx::Shape({B, H, P, N}) && G > 0 && H % G == 0,
         "ssm_scan: the arrays' shapes don't belong together");
  const Run run = [](const std::vector<const float*>& in, float* y, float* last, const std::vector<int>& n) {
    kernels().state_space({in[0], in[1], in[2], in[3], in[4], in[5], y, last, n[0], n[1], n[2], n[3], n[4], n[5],
                           n[2] * n[4], n[3] * n[5], nullptr});
  };
  return recur("mlxlm.StateSpace", run, {B, L, H, G, P, N}, {x, dt, a, b, c, first}, x.shape());
}

std::pair<mx::array, mx::array> op_delta_scan(const mx::array& q, const mx::array& k, const mx::array& v,
                                              const mx::array& g, const mx::array& beta, const MaybeArray& state) {
  expect(k.ndim() == 4 && v.ndim() == 4, "delta_scan takes k (B, L, H, K) and v (B, L, H, V)");
  const int B = k.shape(0), L = k.shape(1), H = k.shape(2), K = k.shape(3), V = v.shape(3);
  const mx::array first = state ? *state : mx::zeros({B, H, K, V}, mx::float32);
  expect(q.shape() == k.shape() && v.shape() == mx::Shape({B, L, H, V}) && g.shape() == mx::Shape({B, L, H}) &&
             beta.shape() == g.shape() && first.shape() == mx::Shape({B, H, K, V}),
         "delta_scan: the arrays' shapes don't belong together");
  const Run run = [](const std::vector<const float*>& in, float* y, float* last, const std::vector<int>& n) {
    kernels().delta_rule({in[0], in[1], in[2], in[3], in[4], in[5], y, last, n[0], n[1], n[2], n[3], n[4]});
  };
  return recur("mlxlm.DeltaRule", run, {B, L, H, K, V}, {q, k, v, g, beta, first}, v.shape());
}

}  // namespace mlxlm
