// How quantized matrices come as MLX arrays: codes packed in uint32, scales, and biases where the mode has them.
#pragma once
#include <optional>
#include <string>

#include "ops.h"
#include "primitive.h"

namespace mlxlm {

// What the arrays and their dtypes mean; `valid` is false where the kernels don't know them.
struct Layout {
  int group = 0, bits = 0;
  Format format = Format::affine;
  ScaleType scale_type = ScaleType::f32;
  bool valid = false;

  bool affine() const { return format == Format::affine; }
  std::string mode() const;
};

// `ndim` is 2 for one matrix (N, K), 3 for a stack (E, N, K).
Layout layout_of(const mx::array& w, const mx::array& scales, const MaybeArray& biases, std::optional<int> group,
                 std::optional<int> bits, const std::string& mode, size_t ndim);

// inputs[first ..] are the codes, the scales and, when affine, the biases; of a stack, its first matrix.
QuantizedMatrix matrix_of(const Layout& l, const std::vector<mx::array>& inputs, int first,
                          mx::cpu::CommandEncoder& encoder);

}  // namespace mlxlm
