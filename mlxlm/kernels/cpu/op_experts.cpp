// Gathered matmul, quantized and dense, as MLX operations.
#include "batches.h"
#include "experts.h"
#include "ops.h"
#include "primitive.h"
#include "quantized_layout.h"

namespace mlxlm {

namespace {

// Inputs: x, the experts' indices, then the matrices.
class GatherMatmul : public Kernel {
 public:
  GatherMatmul(mx::Stream s, std::vector<int32_t> from, mx::Shape batch) : Kernel(s), from_(std::move(from)), batch_(batch) {}

 protected:
  ExpertRows rows_of(const std::vector<mx::array>& in, mx::array& out, int experts, mx::cpu::CommandEncoder& encoder) {
    allocate(out);
    return {kernel_type(out.dtype()), row_major(in[0], encoder), out.data<void>(), from_.data(),
            (const uint32_t*)row_major(in[1], encoder), int64_t(from_.size()), in[0].shape(-2), in[0].shape(-1),
            out.shape(-1), experts};
  }
  mx::array from_array() const { return mx::array(from_.data(), batch_, mx::int32); }

  const std::vector<int32_t> from_;
  const mx::Shape batch_;
};

class QuantizedGather : public GatherMatmul {
 public:
  QuantizedGather(mx::Stream s, std::vector<int32_t> from, mx::Shape batch, const Layout& l, bool transpose)
      : GatherMatmul(s, std::move(from), std::move(batch)), layout_(l), transpose_(transpose) {}
  const char* name() const override { return "mlxlm.QuantizedGather"; }

  mx::array plain(const std::vector<mx::array>& in) const override {
    auto y = mx::gather_qmm(in[0], in[2], in[3], biases(in), from_array(), in[1], transpose_, layout_.group,
                            layout_.bits, layout_.mode());
    return mx::astype(y, in[0].dtype());
  }

  void eval_cpu(const std::vector<mx::array>& in, mx::array& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ExpertRows rows = rows_of(in, out, in[2].shape(0), encoder);
    // The primitive may be gone when this runs: the indices go along.
    encoder.dispatch([rows, first = matrix_of(layout_, in, 2, encoder), transpose = transpose_, from = from_]() mutable {
      rows.from = from.data();
      run_experts(rows, [&](int expert, const MatmulRows& r) {
        transpose ? kernels().quantized_matmul(first.at(expert), r) : kernels().quantized_by_columns(first.at(expert), r);
      });
    });
  }

  std::vector<mx::array> vjp(const std::vector<mx::array>& in, const std::vector<mx::array>& cotangents,
                             const std::vector<int>& argnums, const std::vector<mx::array>& outputs) override {
    std::vector<mx::array> out;
    for (int i : argnums)
      out.push_back(i == 0 ? summed_to(op_gather_qmm(cotangents[0], in[2], in[3], biases(in), std::nullopt, in[1],
                                                     !transpose_, layout_.group, layout_.bits, layout_.mode(),
                                                     std::nullopt, false), in[0])
                           : Kernel::vjp(in, cotangents, {i}, outputs)[0]);
    return out;
  }

 private:
  MaybeArray biases(const std::vector<mx::array>& in) const {
    return layout_.affine() ? MaybeArray(in[4]) : std::nullopt;
  }
  Layout layout_;
  bool transpose_;
};

// The matrices are (E, K, N), as mx.gather_mm takes them; K or N is the contiguous axis.
class DenseGather : public GatherMatmul {
 public:
  using GatherMatmul::GatherMatmul;
  const char* name() const override { return "mlxlm.DenseGather"; }

  mx::array plain(const std::vector<mx::array>& in) const override {
    auto wide = [](const mx::array& a) { return mx::astype(a, mx::float32); };
    return mx::astype(mx::gather_mm(wide(in[0]), wide(in[2]), from_array(), in[1]), in[0].dtype());
  }

  void eval_cpu(const std::vector<mx::array>& in, mx::array& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    mx::array w = in[2];
    bool by_rows;
    const DenseMatrix first = make_matrix(w, by_rows, encoder);
    ExpertRows rows = rows_of(in, out, w.shape(0), encoder);
    encoder.dispatch([rows, first, by_rows, apart = w.strides(0), from = from_]() mutable {
      rows.from = from.data();
      run_experts(rows, [&](int expert, const MatmulRows& r) {
        DenseMatrix m = first;
        m.data = (const char*)m.data + int64_t(size_of(m.type)) * apart * expert;
        by_rows ? kernels().dense_matmul(m, r) : kernels().dense_by_columns(m, r);
      });
    });
  }

  std::vector<mx::array> vjp(const std::vector<mx::array>& in, const std::vector<mx::array>& cotangents,
                             const std::vector<int>& argnums, const std::vector<mx::array>& outputs) override {
    std::vector<mx::array> out;
    for (int i : argnums)
      out.push_back(i == 0 ? summed_to(op_gather_mm(cotangents[0], mx::swapaxes(in[2], 1, 2), std::nullopt, in[1], false),
                                       in[0])
                           : Kernel::vjp(in, cotangents, {i}, outputs)[0]);
    return out;
  }
};

// The pairs' shape and each pair's block of x, or nothing where MLX had better say what is wrong.
std::optional<std::pair<mx::Shape, std::vector<int32_t>>> pairs_of(const mx::array& x, const MaybeArray& lhs,
                                                                   const MaybeArray& rhs) {
  if (!on_cpu() || lhs || !rhs || !mx::issubdtype(rhs->dtype(), mx::integer) || x.ndim() < 2 || x.size() == 0 ||
      rhs->size() == 0 || !is_kernel_float(x.dtype()))
    return std::nullopt;
  const auto pairs = broadcast(batch_of(x), rhs->shape());
  if (!pairs) return std::nullopt;
  return std::pair(*pairs, blocks_of(batch_of(x), *pairs));
}

mx::Shape result_shape(mx::Shape pairs, int M, int N) {
  pairs.push_back(M);
  pairs.push_back(N);
  return pairs;
}

}  // namespace

mx::array op_gather_qmm(const mx::array& x, const mx::array& w, const mx::array& scales, const MaybeArray& biases,
                        const MaybeArray& lhs_indices, const MaybeArray& rhs_indices, bool transpose,
                        std::optional<int> group_size, std::optional<int> bits, const std::string& mode,
                        const MaybeArray& global_scale, bool sorted_indices) {
  const Layout l = layout_of(w, scales, biases, group_size, bits, mode, 3);
  const auto pairs = l.valid && !global_scale ? pairs_of(x, lhs_indices, rhs_indices) : std::nullopt;
  const int wide = pairs ? scales.shape(-1) * l.group : 0;
  if (!pairs || x.shape(-1) != (transpose ? wide : w.shape(1)))
    return mx::astype(mx::gather_qmm(x, w, scales, biases, lhs_indices, rhs_indices, transpose, group_size, bits, mode,
                                     global_scale, sorted_indices),
                      x.dtype());
  std::vector<mx::array> inputs{x, mx::astype(mx::broadcast_to(*rhs_indices, pairs->first), mx::uint32), w, scales};
  if (biases) inputs.push_back(*biases);
  auto kernel = std::make_shared<QuantizedGather>(cpu_stream(), pairs->second, pairs->first, l, transpose);
  return mx::array(result_shape(pairs->first, x.shape(-2), transpose ? w.shape(1) : wide), x.dtype(), std::move(kernel), std::move(inputs));
}

mx::array op_gather_mm(const mx::array& x, const mx::array& w, const MaybeArray& lhs_indices,
                       const MaybeArray& rhs_indices, bool sorted_indices) {
  const auto pairs = w.ndim() == 3 && is_kernel_float(w.dtype()) && w.size() > 0 ? pairs_of(x, lhs_indices, rhs_indices)
                                                                                 : std::nullopt;
  const mx::Dtype type = mx::result_type(x, w);
  if (!pairs || x.shape(-1) != w.shape(1)) {
    // MLX's own has no half precision on the CPU.
    auto wide = [](const mx::array& a) { return on_cpu() ? mx::astype(a, mx::float32) : a; };
    return mx::astype(mx::gather_mm(wide(x), wide(w), lhs_indices, rhs_indices, sorted_indices), type);
  }
  std::vector<mx::array> inputs{mx::astype(x, type),
                                mx::astype(mx::broadcast_to(*rhs_indices, pairs->first), mx::uint32), w};
  auto kernel = std::make_shared<DenseGather>(cpu_stream(), pairs->second, pairs->first);
  return mx::array(result_shape(pairs->first, x.shape(-2), w.shape(2)), type, std::move(kernel), std::move(inputs));
}

}  // namespace mlxlm
