// Mamba 2's scan and the gated delta rule as MLX operations. They have no gradient: mlxlm.kernels.recurrent adds the
// plain twin's.
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

}  // namespace

std::pair<mx::array, mx::array> op_ssm_scan(const mx::array& x, const mx::array& dt, const mx::array& a,
                                            const mx::array& b, const mx::array& c, const MaybeArray& state) {
  expect(x.ndim() == 4 && b.ndim() == 4, "ssm_scan takes x (B, L, H, P) and b (B, L, G, N)");
  const int B = x.shape(0), L = x.shape(1), H = x.shape(2), P = x.shape(3), G = b.shape(2), N = b.shape(3);
  const mx::array first = state ? *state : mx::zeros({B, H, P, N}, mx::float32);
  expect(b.shape(0) == B && b.shape(1) == L && c.shape() == b.shape() && dt.shape() == mx::Shape({B, L, H}) &&
             a.shape() == mx::Shape({H}) && first.shape() == mx::Shape({B, H, P, N}) && G > 0 && H % G == 0,
         "ssm_scan: the arrays' shapes don't belong together");
  const Run run = [](const std::vector<const float*>& in, float* y, float* last, const std::vector<int>& n) {
    kernels().state_space({in[0], in[1], in[2], in[3], in[4], in[5], y, last, n[0], n[1], n[2], n[3], n[4], n[5]});
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
