// What our MLX primitives have in common: one output, the CPU only, gradients through the plain operation.
#pragma once
#include <functional>

#include "mlx/backend/cpu/encoder.h"
#include "mlx/mlx.h"
#include "mlx/primitives.h"
#include "pool.h"
#include "table.h"

namespace mlxlm {

namespace mx = mlx::core;

bool is_kernel_float(mx::Dtype t);
Dtype kernel_type(mx::Dtype t);

// True where our kernels would run what is built now.
bool on_cpu();
mx::Stream cpu_stream();

class Kernel : public mx::UnaryPrimitive {
 public:
  explicit Kernel(mx::Stream stream) : mx::UnaryPrimitive(stream) {}

  // The same result from MLX's own operations.
  virtual mx::array plain(const std::vector<mx::array>& inputs) const = 0;

  void eval_gpu(const std::vector<mx::array>&, mx::array&) override;
  std::vector<mx::array> vjp(const std::vector<mx::array>& primals, const std::vector<mx::array>& cotangents,
                             const std::vector<int>& argnums, const std::vector<mx::array>& outputs) override;
  std::vector<mx::array> jvp(const std::vector<mx::array>& primals, const std::vector<mx::array>& tangents,
                             const std::vector<int>& argnums) override;
  std::pair<std::vector<mx::array>, std::vector<int>> vmap(const std::vector<mx::array>& inputs,
                                                           const std::vector<int>& axes) override;
};

// Where to find an input's values in row-major order: its own memory, or a copy that the encoder keeps and fills.
const void* row_major(const mx::array& a, mx::cpu::CommandEncoder& encoder);
// The same, but only the last axis has to be contiguous; `a` is replaced by the copy where one is needed.
void make_rows(mx::array& a, mx::cpu::CommandEncoder& encoder);

// Float matrices (..., K, N) as they lie in memory: (K, N) row after row, or (N, K) where `by_rows`; `a` is replaced by a
// copy where neither axis is contiguous. Gives the first of them.
DenseMatrix make_matrix(mx::array& a, bool& by_rows, mx::cpu::CommandEncoder& encoder);

void allocate(mx::array& out);

// Copies strided values into row-major order, innermost axes last.
void copy_strided(const char* from, char* to, const mx::Shape& shape, const mx::Strides& strides, size_t item);

// An array as a mask of scores (B, Hq, L, S), and whether it can be one.
void set_mask(Mask& mask, const mx::array& m);
bool fits_mask(const mx::array& mask, const mx::Shape& scores);

// A vector of numbers, to be read as f32 when the operation runs.
struct Vector {
  const void* data = nullptr;
  Dtype type = Dtype::f32;
  int size = 0;

  Vector() = default;
  Vector(const mx::array& a, mx::cpu::CommandEncoder& encoder)
      : data(row_major(a, encoder)), type(kernel_type(a.dtype())), size(int(a.size())) {}

  // Uses `buffer`, which has room for `size`, unless the values are f32 already.
  const float* read(float* buffer) const {
    if (!data || type == Dtype::f32) return (const float*)data;
    kernels().to_f32(type, data, buffer, size);
    return buffer;
  }
};

}  // namespace mlxlm
