// Matmul of two float arrays, batched, as an MLX operation; neither side is ever transposed in memory.
#include "batches.h"
#include "ops.h"
#include "primitive.h"

namespace mlxlm {

namespace {

// Inputs: a (..., M, K) and b (..., K, N), whose batches broadcast to `pairs`.
class Matmul : public Kernel {
 public:
  Matmul(mx::Stream s, mx::Shape pairs) : Kernel(s), pairs_(std::move(pairs)) {}
  const char* name() const override { return "mlxlm.Matmul"; }

  mx::array plain(const std::vector<mx::array>& in) const override { return mx::matmul(in[0], in[1]); }

  void eval_cpu(const std::vector<mx::array>& in, mx::array& out) override {
    allocate(out);
    auto& encoder = mx::cpu::get_command_encoder(stream());
    const mx::array& a = in[0];
    mx::array b = in[1];
    bool by_rows;
    const DenseMatrix first = make_matrix(b, by_rows, encoder);
    const int M = a.shape(-2), K = a.shape(-1), N = b.shape(-1);
    encoder.dispatch([first, by_rows, type = kernel_type(out.dtype()), x = (const char*)row_major(a, encoder),
                      to = out.data<char>(), block = size_of(kernel_type(out.dtype())) * M, M, K, N,
                      from = blocks_of(batch_of(a), pairs_), at = offsets(b)] {
      for_pairs(int64_t(from.size()), [&](int64_t i) {
        DenseMatrix w = first;
        w.data = (const char*)w.data + at[i] * int64_t(size_of(w.type));
        const MatmulRows rows{type, x + from[i] * block * K, to + i * block * N, nullptr, M};
        by_rows ? kernels().dense_matmul(w, rows) : kernels().dense_by_columns(w, rows);
      });
    });
  }

  std::vector<mx::array> vjp(const std::vector<mx::array>& primals, const std::vector<mx::array>& cotangents,
                             const std::vector<int>& argnums, const std::vector<mx::array>&) override {
    std::vector<mx::array> out;
    for (int i : argnums) {
      const mx::array other = mx::swapaxes(primals[1 - i], -1, -2);
      out.push_back(summed_to(i == 0 ? op_matmul(cotangents[0], other) : op_matmul(other, cotangents[0]), primals[i]));
    }
    return out;
  }

 private:
  // Where each pair's matrix begins, in elements.
  std::vector<int64_t> offsets(const mx::array& b) const {
    const mx::Shape batch = batch_of(b);
    std::vector<int64_t> at;
    for (int64_t block : blocks_of(batch, pairs_)) {
      int64_t offset = 0;
      for (int axis = int(batch.size()) - 1; axis >= 0; axis--) {
        offset += block % batch[axis] * b.strides(axis);
        block /= batch[axis];
      }
      at.push_back(offset);
    }
    return at;
  }

  const mx::Shape pairs_;
};

}  // namespace

mx::array summed_to(const mx::array& gradient, const mx::array& like) {
  std::vector<int> axes;
  const int missing = int(gradient.ndim()) - int(like.ndim());
  for (int i = 0; i < int(gradient.ndim()); i++)
    if (i < missing || (like.shape(i - missing) == 1 && gradient.shape(i) != 1)) axes.push_back(i);
  const mx::array sum = axes.empty() ? gradient : mx::reshape(mx::sum(gradient, axes), like.shape());
  return mx::astype(sum, like.dtype());
}

mx::array op_matmul(const mx::array& a, const mx::array& b) {
  const bool fits = on_cpu() && is_kernel_float(a.dtype()) && is_kernel_float(b.dtype()) && a.ndim() > 1 &&
                    b.ndim() > 1 && a.size() > 0 && b.size() > 0 && a.shape(-1) == b.shape(-2);
  // With one matrix for all of them, the rows are those of one block.
  if (fits && b.ndim() == 2 && a.ndim() > 2) {
    auto shape = a.shape();
    shape.back() = b.shape(-1);
    return mx::reshape(op_matmul(mx::reshape(a, {-1, a.shape(-1)}), b), std::move(shape));
  }
  const auto pairs = fits ? broadcast(batch_of(a), batch_of(b)) : std::nullopt;
  if (!pairs) return mx::matmul(a, b);
  const mx::Dtype type = mx::result_type(a, b);
  auto shape = *pairs;
  shape.push_back(a.shape(-2));
  shape.push_back(b.shape(-1));
  return mx::array(std::move(shape), type, std::make_shared<Matmul>(cpu_stream(), *pairs),
                   {mx::astype(a, type), b});
}

}  // namespace mlxlm
