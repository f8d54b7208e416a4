// The chosen experts' work on a few rows, weighted and summed, with all it needs, ready to run.
#pragma once
#include "projection.h"

namespace mlxlm {

// A stack of quantized matrices, one for each expert, and their biases.
struct ExpertStack {
  QuantizedMatrix first{};
  Vector bias;  // (experts, N), or nothing
  int experts = 0;

  ExpertStack() = default;
  // The arrays of `in` from `at` on, which then is behind them.
  ExpertStack(const LinearShape& s, const std::vector<mx::array>& in, int& at, mx::cpu::CommandEncoder& encoder);
  size_t bias_bytes() const { return bias.data ? Arena::piece(sizeof(float) * first.N) : 0; }
  const float* bias_of(int expert, float* memory) const;
};

struct ExpertsRun {
  ExpertStack gate, up, down;  // no up: the gate is all there is to open
  Gate act{};

  ExpertsRun() = default;
  // Of two or three linears whose arrays are those of `in` from `at` on.
  ExpertsRun(const std::vector<LinearShape>& linears, Gate act, const std::vector<mx::array>& in, int at,
             mx::cpu::CommandEncoder& encoder);
  size_t memory(Dtype type, int k) const;
  // out = residual + the sum of what k experts, by picks and share (M, k), make of x (M, K); residual may be null.
  void run(Rows rows, const void* x, int k, const uint32_t* picks, const float* share, const void* residual, void* out,
           Arena& arena) const;
};

// Whether two or three linears, whose arrays are those of `in` from `at` on, are experts from K numbers to as many.
bool fit_as_experts(const std::vector<LinearShape>& linears, const std::vector<mx::array>& in, int at, int K);

}  // namespace mlxlm
