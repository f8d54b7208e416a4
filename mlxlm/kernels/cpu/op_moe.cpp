// The chosen experts' work on a few rows, weighted and summed, as one MLX operation.
#include "experts_run.h"
#include "ops.h"

namespace mlxlm {

namespace {

// Inputs: x, picks, weights, then the arrays of gate, up (if any) and down.
class ExpertsStep : public Kernel {
 public:
  ExpertsStep(mx::Stream s, std::vector<LinearShape> linears, Gate act)
      : Kernel(s), linears_(std::move(linears)), act_(act) {}
  const char* name() const override { return "mlxlm.ExpertsStep"; }

  mx::array plain(const std::vector<mx::array>& in) const override {
    std::vector<mx::array> wide;
    auto h = mx::expand_dims(in[0], {-2, -3});
    int at = 3;
    for (size_t i = 0; i + 1 < linears_.size(); i++) wide.push_back(gathered(linears_[i], h, in, at));
    h = op_gated(act_, wide[0], wide.size() == 2 ? MaybeArray(wide[1]) : std::nullopt);
    auto y = mx::squeeze(gathered(linears_.back(), h, in, at), -2);
    return mx::astype(mx::sum(mx::multiply(y, mx::expand_dims(in[2], -1)), -2), in[0].dtype());
  }

  void eval_cpu(const std::vector<mx::array>& in, mx::array& out) override {
    allocate(out);
    auto& encoder = mx::cpu::get_command_encoder(stream());
    const int k = in[1].shape(-1);
    const Rows rows{kernel_type(out.dtype()), int(in[0].size() / in[0].shape(-1))};
    const Vector share(in[2], encoder);
    encoder.dispatch([run = ExpertsRun(linears_, act_, in, 3, encoder), rows, k, share, x = row_major(in[0], encoder),
                      picks = (const uint32_t*)row_major(in[1], encoder), to = out.data<void>()] {
      Arena arena(run.memory(rows.type, k) + Arena::piece(sizeof(float) * share.size));
      const float* shares = share.read((float*)arena.take(sizeof(float) * share.size));
      run.run(rows, x, k, picks, shares, nullptr, to, arena);
    });
  }

 private:
  mx::array gathered(const LinearShape& s, const mx::array& x, const std::vector<mx::array>& in, int& at) const {
    const MaybeArray biases = s.has_biases ? MaybeArray(in[at + 2]) : std::nullopt;
    auto y = op_gather_qmm(x, in[at], in[at + 1], biases, std::nullopt, in[1], true, s.group, s.bits, s.mode,
                           std::nullopt, false);
    if (s.has_bias) y = mx::add(y, mx::expand_dims(mx::take(in[at + s.arrays() - 1], in[1], 0), -2));
    at += s.arrays();
    return y;
  }

  std::vector<LinearShape> linears_;
  Gate act_;
};

}  // namespace

MaybeArray op_experts_step(const mx::array& x, const mx::array& picks, const mx::array& weights,
                           const std::vector<LinearShape>& linears, const std::vector<mx::array>& arrays, Gate act) {
  if (!on_cpu() || !is_kernel_float(x.dtype()) || x.ndim() < 1 || x.size() == 0 || picks.size() == 0 ||
      picks.shape() != weights.shape() || picks.ndim() != x.ndim() || !is_kernel_float(weights.dtype()) ||
      !mx::issubdtype(picks.dtype(), mx::integer))
    return std::nullopt;
  for (int i = 0; i + 1 < int(x.ndim()); i++) if (picks.shape(i) != x.shape(i)) return std::nullopt;
  if (arrays.empty() || !fit_as_experts(linears, arrays, 0, x.shape(-1))) return std::nullopt;
  std::vector<mx::array> inputs{x, mx::astype(picks, mx::uint32), weights};
  inputs.insert(inputs.end(), arrays.begin(), arrays.end());
  return mx::array(x.shape(), x.dtype(), std::make_shared<ExpertsStep>(cpu_stream(), linears, act), std::move(inputs));
}

}  // namespace mlxlm
