// Linear layers inside a larger operation: quantized or not, one or several by the same rows.
#pragma once
#include "primitive.h"
#include "quantized_layout.h"

namespace mlxlm {

// What one linear layer brings along: weight, scales and biases where it is quantized, and its bias.
struct LinearShape {
  bool quantized = false, has_biases = false, has_bias = false;
  std::string mode;
  std::optional<int> group, bits;  // the mode's own where there is none
  bool int8 = false;               // whether a prompt's activations are rounded: see tile_bytes.h

  int arrays() const { return 1 + (quantized ? 1 : 0) + (has_biases ? 1 : 0) + (has_bias ? 1 : 0); }
  // Whether the arrays from inputs[first] on are such a layer from K numbers of `type` to `N` (any where N is 0).
  bool fits(const std::vector<mx::array>& inputs, int first, int K, mx::Dtype type, int N) const;
  mx::array plain(const mx::array& x, const std::vector<mx::array>& inputs, int first) const;
};

// The same, ready to run. `bias` is put into `memory` of `bias_bytes()` by `prepare`.
struct Projection {
  bool quantized = false, int8 = false;
  QuantizedMatrix codes{};
  DenseMatrix dense{};
  Vector bias;
  const float* ready_bias = nullptr;

  Projection() = default;
  Projection(const LinearShape& shape, const std::vector<mx::array>& inputs, int first, mx::cpu::CommandEncoder& encoder);
  int N() const { return quantized ? codes.N : dense.N; }
  int K() const { return quantized ? codes.K : dense.K; }
};

// Memory that lasts as long as one operation's run, handed out piece by piece.
class Arena {
 public:
  explicit Arena(size_t bytes) : at_((char*)scratch(kBlock, bytes)) {}
  static size_t piece(size_t bytes) { return (bytes + 63) / 64 * 64; }
  void* take(size_t bytes) {
    void* p = at_;
    at_ += piece(bytes);
    return p;
  }

 private:
  char* at_;
};

// M rows of `type`, from and to contiguous memory.
struct Rows {
  Dtype type;
  int M;
  bool prompt;  // more positions next to each other than decoding has
  bool few() const { return M <= kDecoding; }
};

void read_bias(Projection& p, Arena& arena);
// out[i] = x by p[i], one pass over x where the layers are alike.
void project_each(const Projection* p, int count, Rows rows, const void* x, void* const* out);
// out = act(x by gate) * (x by up)
void project_gated(const Projection& gate, const Projection& up, Gate act, Rows rows, const void* x, void* out,
                   Arena& arena);
// out = residual + x by p; `residual` may be null.
void project_onto(const Projection& p, Rows rows, const void* x, const void* residual, void* out);

// y (..., K) = for each row of x the sum over its picks (..., k) of weights times down(act(gate(x)) * up(x)), or of
// down(relu(x by the first) ^ 2) for two linears; each is a stack of one matrix an expert. Nothing where it can't be done.
MaybeArray op_experts_step(const mx::array& x, const mx::array& picks, const mx::array& weights,
                           const std::vector<LinearShape>& linears, const std::vector<mx::array>& arrays, Gate act);

}  // namespace mlxlm
