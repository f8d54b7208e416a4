// The chosen experts' work on a few rows, weighted and summed, as one MLX operation.
#include <cstring>

#include "ops.h"
#include "projection.h"

namespace mlxlm {

namespace {

// A stack of quantized matrices, one for each expert, and their biases.
struct Stack {
  QuantizedMatrix first{};
  Vector bias;  // (experts, N), or nothing
  int experts = 0;

  QuantizedMatrix matrix(int expert) const {
    QuantizedMatrix w = first;
    const size_t scales = size_t(expert) * w.N * w.groups() * w.scale_size();
    w.codes += size_t(expert) * w.N * w.row_bytes();
    w.scales = (const char*)w.scales + scales;
    if (w.biases) w.biases = (const char*)w.biases + scales;
    return w;
  }
  size_t bias_bytes() const { return bias.data ? Arena::piece(sizeof(float) * first.N) : 0; }
  const float* bias_of(int expert, Arena& arena) const {
    if (!bias.data) return nullptr;
    Vector own = bias;
    own.size = first.N;
    own.data = (const char*)bias.data + size_of(bias.type) * first.N * expert;
    return own.read(own.type == Dtype::f32 ? nullptr : (float*)arena.take(bias_bytes()));
  }
};

struct ExpertsRun {
  Dtype type;
  int M, k;
  const void* x;
  const uint32_t* picks;   // (M, k)
  const void* share;       // (M, k) of share_type
  Dtype share_type;
  void* out;
  Stack gate, up, down;    // no up: the activation is relu(x)^2
  Gate act;

  void operator()() const {
    const int N = gate.first.N;
    const size_t item = size_of(type), wide = Arena::piece(item * N);
    const size_t biases = gate.bias_bytes() + up.bias_bytes() + down.bias_bytes();
    std::vector<QuantizedMatrix> in(2 * k), back(k);
    std::vector<const float*> in_bias(2 * k), back_bias(k);
    std::vector<void*> hidden(k);
    std::vector<float> weight(size_t(M) * k);
    const float* weights = share_type == Dtype::f32 ? (const float*)share : weight.data();
    if (share_type != Dtype::f32) kernels().to_f32(share_type, share, weight.data(), int64_t(M) * k);
    const int each = up.experts ? 2 : 1;
    for (int m = 0; m < M; m++) {
      Arena arena(k * (wide + biases) + 64);
      for (int i = 0; i < k; i++) {
        // An index out of range must not read past the stack.
        const uint32_t pick = picks[size_t(m) * k + i];
        const int expert = pick < uint32_t(gate.experts) ? int(pick) : gate.experts - 1;
        in[each * i] = gate.matrix(expert), in_bias[each * i] = gate.bias_of(expert, arena);
        if (up.experts) in[2 * i + 1] = up.matrix(expert), in_bias[2 * i + 1] = up.bias_of(expert, arena);
        back[i] = down.matrix(expert), back_bias[i] = down.bias_of(expert, arena);
        hidden[i] = arena.take(item * N);
      }
      const void* row = (const char*)x + item * gate.first.K * m;
      kernels().few_rows({in.data(), each * k, up.experts ? Join::gated : Join::each, act, type, 1, &row, hidden.data(),
                          in_bias.data(), nullptr, nullptr});
      if (!up.experts)
        for (void* h : hidden) kernels().squared_relu(type, h, N);
      void* to = (char*)out + item * down.first.N * m;
      kernels().few_rows({back.data(), k, Join::sum, act, type, 1, (const void* const*)hidden.data(), &to,
                          back_bias.data(), weights + size_t(m) * k, nullptr});
    }
  }
};

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
    if (wide.size() == 2) h = act_ == Gate::silu ? op_swiglu(wide[0], wide[1]) : op_geglu(wide[0], wide[1]);
    else h = mx::square(mx::maximum(wide[0], mx::array(0.f, wide[0].dtype())));
    auto y = mx::squeeze(gathered(linears_.back(), h, in, at), -2);
    return mx::astype(mx::sum(mx::multiply(y, mx::expand_dims(in[2], -1)), -2), in[0].dtype());
  }

  void eval_cpu(const std::vector<mx::array>& in, mx::array& out) override {
    allocate(out);
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ExpertsRun run{kernel_type(out.dtype()), int(in[0].size() / in[0].shape(-1)), in[1].shape(-1),
                   row_major(in[0], encoder), (const uint32_t*)row_major(in[1], encoder), row_major(in[2], encoder),
                   kernel_type(in[2].dtype()), out.data<void>(), {}, {}, {}, act_};
    int at = 3;
    run.gate = stack(linears_[0], in, at, encoder);
    if (linears_.size() == 3) run.up = stack(linears_[1], in, at, encoder);
    run.down = stack(linears_.back(), in, at, encoder);
    encoder.dispatch(std::move(run));
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
  static Stack stack(const LinearShape& s, const std::vector<mx::array>& in, int& at, mx::cpu::CommandEncoder& encoder) {
    const MaybeArray biases = s.has_biases ? MaybeArray(in[at + 2]) : std::nullopt;
    Stack out;
    out.first = matrix_of(layout_of(in[at], in[at + 1], biases, s.group, s.bits, s.mode, 3), in, at, encoder);
    out.experts = in[at].shape(0);
    if (s.has_bias) out.bias = Vector(in[at + s.arrays() - 1], encoder);
    at += s.arrays();
    return out;
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
  int at = 0, K = x.shape(-1), experts = 0, hidden = 0, group = 0, bits = 0;
  Format format = Format::affine;
  for (size_t i = 0; i < linears.size(); i++) {
    const LinearShape& s = linears[i];
    if (at + s.arrays() > int(arrays.size()) || !s.quantized) return std::nullopt;
    const MaybeArray biases = s.has_biases ? MaybeArray(arrays[at + 2]) : std::nullopt;
    const Layout l = layout_of(arrays[at], arrays[at + 1], biases, s.group, s.bits, s.mode, 3);
    const bool last = i + 1 == linears.size();
    if (!l.valid || arrays[at + 1].shape(2) * l.group != (last ? hidden : K)) return std::nullopt;
    if (i == 0) experts = arrays[at].shape(0), hidden = arrays[at].shape(1), group = l.group, bits = l.bits, format = l.format;
    // The gate and what it opens go side by side.
    if (arrays[at].shape(0) != experts || arrays[at].shape(1) != (last ? K : hidden)) return std::nullopt;
    if (!last && (l.group != group || l.bits != bits || l.format != format)) return std::nullopt;
    if (s.has_bias) {
      const mx::array& b = arrays[at + s.arrays() - 1];
      if (b.shape() != mx::Shape({experts, arrays[at].shape(1)}) || !is_kernel_float(b.dtype())) return std::nullopt;
    }
    at += s.arrays();
  }
  std::vector<mx::array> inputs{x, mx::astype(picks, mx::uint32), weights};
  inputs.insert(inputs.end(), arrays.begin(), arrays.end());
  return mx::array(x.shape(), x.dtype(), std::make_shared<ExpertsStep>(cpu_stream(), linears, act), std::move(inputs));
}

}  // namespace mlxlm
