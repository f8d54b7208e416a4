// The choice of experts for each token, and what each counts, as one MLX operation.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "ops.h"
#include "primitive.h"

namespace mlxlm {

namespace {

constexpr int TOKENS = 16;  // tokens of a task

void to_softmax(float* x, int n) {
  const float top = *std::max_element(x, x + n);
  float total = 0;
  for (int i = 0; i < n; i++) total += x[i] = std::exp(x[i] - top);
  for (int i = 0; i < n; i++) x[i] /= total;
}

// What one token's choice is made with.
struct Chooser {
  const RouteShape& shape;
  int experts;
  std::vector<float> choice, worth, best;
  std::vector<uint32_t> order, group_order;

  Chooser(const RouteShape& s, int n)
      : shape(s), experts(n), choice(n), worth(s.groups), best(n / s.groups), order(n), group_order(s.groups) {}

  // The `count` largest first; of equals the first.
  static void largest_first(std::vector<uint32_t>& order, const std::vector<float>& of, int count) {
    std::iota(order.begin(), order.end(), 0);
    std::partial_sort(order.begin(), order.begin() + count, order.end(),
                      [&](uint32_t a, uint32_t b) { return of[a] != of[b] ? of[a] > of[b] : a < b; });
  }

  void groups_out() {
    const int size = experts / shape.groups, most = std::min(shape.group_best, size);
    for (int g = 0; g < shape.groups; g++) {
      std::partial_sort_copy(choice.begin() + g * size, choice.begin() + (g + 1) * size, best.begin(), best.end(),
                             std::greater<float>());
      worth[g] = std::accumulate(best.begin(), best.begin() + most, 0.f);
    }
    largest_first(group_order, worth, shape.groups);
    for (int i = shape.keep_groups; i < shape.groups; i++)
      std::fill_n(choice.begin() + group_order[i] * size, size, -std::numeric_limits<float>::infinity());
  }

  void choose(float* scores, const float* bias, uint32_t* picks, float* weights) {
    if (shape.softmax == Softmax::before) to_softmax(scores, experts);
    for (int e = 0; e < experts; e++) {
      const float c = bias ? scores[e] + bias[e] : scores[e];
      choice[e] = c == c ? c : std::numeric_limits<float>::infinity();  // an order needs numbers
    }
    if (shape.groups > 1) groups_out();
    largest_first(order, choice, shape.k);
    float total = 0;
    for (int i = 0; i < shape.k; i++) total += weights[i] = scores[picks[i] = order[i]];
    if (shape.softmax == Softmax::after) to_softmax(weights, shape.k);
    else if (shape.normalise) for (int i = 0; i < shape.k; i++) weights[i] /= total + shape.eps;
    for (int i = 0; i < shape.k; i++) weights[i] *= shape.scale;
  }
};

// Inputs: logits (..., experts), and a bias (experts,) if any; outputs: picks and weights (..., k).
class Route : public mx::Primitive {
 public:
  Route(mx::Stream s, const RouteShape& shape) : mx::Primitive(s), shape_(shape) {}
  const char* name() const override { return "mlxlm.Route"; }

  void eval_cpu(const std::vector<mx::array>& in, std::vector<mx::array>& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    allocate(out[0]);
    allocate(out[1]);
    const int n = in[0].shape(-1);
    const Vector bias = in.size() > 1 ? Vector(in[1], encoder) : Vector();
    encoder.dispatch([shape = shape_, n, bias, type = kernel_type(in[0].dtype()), tokens = int(in[0].size() / n),
                      logits = row_major(in[0], encoder), picks = out[0].data<uint32_t>(), weights = out[1].data<void>()] {
      std::vector<float> own(bias.size + 1);
      route_rows(shape, tokens, n, type, logits, bias.read(own.data()), picks, type, weights);
    });
  }
  void eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) override {
    throw std::runtime_error("mlxlm.Route runs on the CPU only");
  }

  // The bias only steers the choice: the weights' gradient goes to the logits.
  std::vector<mx::array> vjp(const std::vector<mx::array>& in, const std::vector<mx::array>& cotangents,
                             const std::vector<int>& argnums, const std::vector<mx::array>& out) override {
    std::vector<mx::array> gradients;
    for (int i : argnums) {
      const auto weights = [&](const std::vector<mx::array>& x) { return std::vector<mx::array>{counted(x[0], out[0])}; };
      gradients.push_back(i == 0 ? mx::vjp(weights, {in[0]}, {cotangents[1]}).second[0] : mx::zeros_like(in[i]));
    }
    return gradients;
  }

 private:
  // The weights of given picks, in MLX's operations.
  mx::array counted(const mx::array& logits, const mx::array& picks) const {
    auto w = mx::take_along_axis(shape_.softmax == Softmax::before ? mx::softmax(logits, -1, true) : logits, picks, -1);
    if (shape_.softmax == Softmax::after) w = mx::softmax(w, -1, true);
    else if (shape_.normalise) w = mx::divide(w, mx::add(mx::sum(w, -1, true), mx::array(shape_.eps, w.dtype())));
    return mx::multiply(w, mx::array(shape_.scale, w.dtype()));
  }

  const RouteShape shape_;
};

}  // namespace

void route_rows(const RouteShape& shape, int tokens, int experts, Dtype type, const void* logits, const float* bias,
                uint32_t* picks, Dtype weight_type, void* weights) {
  parallel_for((tokens + TOKENS - 1) / TOKENS, [&](int task) {
    Chooser chooser(shape, experts);
    std::vector<float> scores(experts), weight(shape.k);
    for (int t = task * TOKENS; t < std::min(tokens, (task + 1) * TOKENS); t++) {
      kernels().to_f32(type, (const char*)logits + size_of(type) * experts * t, scores.data(), experts);
      chooser.choose(scores.data(), bias, picks + size_t(t) * shape.k, weight.data());
      kernels().from_f32(weight_type, weight.data(), (char*)weights + size_of(weight_type) * shape.k * t, shape.k);
    }
  });
}

std::optional<std::pair<mx::array, mx::array>> op_route(const mx::array& logits, const MaybeArray& bias,
                                                        const RouteShape& shape) {
  const bool fits = on_cpu() && is_kernel_float(logits.dtype()) && logits.ndim() > 0 && logits.size() > 0;
  const int n = fits ? logits.shape(-1) : 0;
  if (!fits || shape.k < 1 || shape.k > n || shape.groups < 1 || n % shape.groups != 0 || shape.keep_groups < 1 ||
      shape.keep_groups > shape.groups || shape.group_best < 1 ||
      (bias && (!is_kernel_float(bias->dtype()) || bias->shape() != mx::Shape({n}))))
    return std::nullopt;
  auto result = logits.shape();
  result.back() = shape.k;
  std::vector<mx::array> inputs{logits};
  if (bias) inputs.push_back(*bias);
  auto made = mx::array::make_arrays({result, result}, {mx::uint32, logits.dtype()},
                                     std::make_shared<Route>(cpu_stream(), shape), inputs);
  return std::pair(mx::stop_gradient(made[0]), made[1]);  // MLX has no gradient of an index
}

}  // namespace mlxlm
