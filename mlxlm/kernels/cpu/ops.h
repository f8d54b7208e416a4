// The operations as MLX functions: ours where the arguments and the device allow it, else MLX's own.
#pragma once
#include <optional>
#include <string>
#include <tuple>
#include <variant>
#include <vector>

#include "mlx/mlx.h"

namespace mlxlm {

namespace mx = mlx::core;
using MaybeArray = std::optional<mx::array>;
enum class Dtype : int;
enum class Gate : int;

// (where it begins in its file, shape, dtype)
using StoredTensor = std::tuple<size_t, std::vector<int>, mx::Dtype>;
// Tensors that are read when they are needed, into large pages. A read that fails is a runtime error of "[mlxlm.read]".
std::vector<mx::array> op_read(const std::string& path, const std::vector<StoredTensor>& tensors);
// For each array a copy in large pages, made when it is needed; nothing for those that lie in such already.
std::vector<MaybeArray> op_settle(const std::vector<mx::array>& arrays);
mx::array op_quantized_matmul(const mx::array& x, const mx::array& w, const mx::array& scales, const MaybeArray& biases,
                              bool transpose, std::optional<int> group_size, std::optional<int> bits,
                              const std::string& mode);
mx::array op_quantized_linear(const mx::array& x, const mx::array& w, const mx::array& scales, const MaybeArray& biases,
                              const MaybeArray& bias, std::optional<int> group_size, std::optional<int> bits,
                              const std::string& mode, bool int8 = false);
mx::array op_quantized_embedding(const mx::array& indices, const mx::array& w, const mx::array& scales,
                                 const MaybeArray& biases, std::optional<int> group_size, std::optional<int> bits,
                                 const std::string& mode, const std::optional<mx::Dtype>& dtype);
mx::array op_gather_qmm(const mx::array& x, const mx::array& w, const mx::array& scales, const MaybeArray& biases,
                        const MaybeArray& lhs_indices, const MaybeArray& rhs_indices, bool transpose,
                        std::optional<int> group_size, std::optional<int> bits, const std::string& mode,
                        const MaybeArray& global_scale, bool sorted_indices);
mx::array op_gather_mm(const mx::array& x, const mx::array& w, const MaybeArray& lhs_indices,
                       const MaybeArray& rhs_indices, bool sorted_indices);
// a (..., M, K) by b (..., K, N), as mx::matmul.
mx::array op_matmul(const mx::array& a, const mx::array& b);
// A gradient's sum over the axes that `like` was broadcast along, in its shape and dtype.
mx::array summed_to(const mx::array& gradient, const mx::array& like);
mx::array op_linear(const mx::array& x, const mx::array& weight, const MaybeArray& bias);
mx::array op_rms_norm(const mx::array& x, const MaybeArray& weight, float eps);
mx::array op_layer_norm(const mx::array& x, const MaybeArray& weight, const MaybeArray& bias, float eps);
mx::array op_argmax(const mx::array& x);
// An activation, or a unit that it opens.
mx::array op_gated(Gate kind, const mx::array& gate, const MaybeArray& up);
mx::array op_silu(const mx::array& x);
mx::array op_relu2(const mx::array& x);
mx::array op_swiglu(const mx::array& gate, const mx::array& up);
mx::array op_geglu(const mx::array& gate, const mx::array& up);
mx::array op_gelu(const mx::array& x);
mx::array op_gelu_tanh(const mx::array& x);
mx::array op_quick_gelu(const mx::array& x);
mx::array op_rope(const mx::array& x, int dims, bool traditional, std::optional<float> base, float scale,
                  const std::variant<int, mx::array>& offset, const MaybeArray& freqs);
// Scores become cap * tanh(score / cap) before the mask, where there is a cap.
mx::array op_attention(const mx::array& q, const mx::array& k, const mx::array& v, float scale,
                       const std::variant<std::monostate, std::string, mx::array>& mask, const MaybeArray& sinks,
                       const std::optional<float>& cap);

// The same over keys and values of affine groups, each as (codes, scales, biases); nothing where the kernels can't do it.
MaybeArray op_packed_attention(const mx::array& q, const std::vector<mx::array>& k, const std::vector<mx::array>& v,
                               int group_size, int bits, float scale,
                               const std::variant<std::monostate, std::string, mx::array>& mask, const MaybeArray& sinks,
                               const std::optional<float>& cap);

// How a router's logits (or scores) become weights: a softmax over all of them, over the chosen ones, or none.
enum class Softmax : int { none, before, after };

// `k` experts a token. Of `groups` of experts `keep_groups` stay in the race, by the sum of their `group_best` best ones.
struct RouteShape {
  int k;
  Softmax softmax;
  int groups, keep_groups, group_best;
  bool normalise;
  float scale, eps;
};

// The same for rows of logits (tokens, experts) of `type`, to picks and weights (tokens, k); bias (experts,) or null.
void route_rows(const RouteShape& shape, int tokens, int experts, Dtype type, const void* logits, const float* bias,
                uint32_t* picks, Dtype weight_type, void* weights);
// (picks, weights), both (..., k), of logits (..., experts) and a bias that steers the choice alone; nothing where it
// can't be done.
std::optional<std::pair<mx::array, mx::array>> op_route(const mx::array& logits, const MaybeArray& bias,
                                                        const RouteShape& shape);

// x (B, L + width - 1, C) by weight (C, width, 1), each channel for itself: (B, L, C).
mx::array op_causal_conv(const mx::array& x, const mx::array& weight, const MaybeArray& bias);

// x (N, H, W, C) by weight (O, kernel, kernel, C / groups); pairs are of rows and columns, padding before and after each.
mx::array op_conv2d(const mx::array& x, const mx::array& weight, const MaybeArray& bias, std::pair<int, int> stride,
                    std::pair<std::pair<int, int>, std::pair<int, int>> padding, std::pair<int, int> dilation, int groups);

// Each gives y and the state after the last position.
std::pair<mx::array, mx::array> op_ssm_scan(const mx::array& x, const mx::array& dt, const mx::array& a,
                                            const mx::array& b, const mx::array& c, const MaybeArray& state);
std::pair<mx::array, mx::array> op_selective_scan(const mx::array& x, const mx::array& dt, const mx::array& a,
                                                  const mx::array& b, const mx::array& c, const MaybeArray& state);
std::pair<mx::array, mx::array> op_delta_scan(const mx::array& q, const mx::array& k, const mx::array& v,
                                              const mx::array& g, const mx::array& beta, const MaybeArray& state);

}  // namespace mlxlm
