// A block's Mamba 2 mixer with all it needs, ready to run. Its weights must be there already: some are turned at once.
#pragma once
#include "block.h"

namespace mlxlm {

struct MambaRun {
  Projection in, out;
  void* past = nullptr;
  float* state = nullptr;

  MambaRun() = default;
  MambaRun(const MambaShape& s, const Places& at, const std::vector<mx::array>& given, mx::cpu::CommandEncoder& encoder);
  bool present() const { return bool(constants_); }
  size_t memory(Rows rows) const;
  // y (B * L, inner) of x (B * L, dim), for `out` to project.
  void run(const void* x, void* y, Dtype type, int B, int L, Arena& arena) const;

 private:
  void steps(const void* rows, Rows size, float* dt) const;

  const MambaShape* shape_ = nullptr;
  // What doesn't change, as f32: the convolution's weight (width, channels) and bias, dt_bias, -exp(A_log), D, the norm.
  std::shared_ptr<const std::vector<float>> constants_;
  const float *conv_ = nullptr, *conv_bias_ = nullptr, *dt_bias_ = nullptr, *a_ = nullptr, *d_ = nullptr, *norm_ = nullptr;
};

}  // namespace mlxlm
