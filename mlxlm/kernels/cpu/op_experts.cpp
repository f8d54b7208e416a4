// Gathered matmul, quantized and dense, as MLX operations.
#include "experts.h"
#include "ops.h"
#include "primitive.h"
#include "quantized_layout.h"

namespace mlxlm {

namespace {

// For each pair of the broadcast batch, which block of x it reads: what MLX does when no lhs_indices are given.
std::vector<int32_t> blocks_of(const mx::Shape& batch, const mx::Shape& pairs) {
  int64_t count = 1;
  for (int n : pairs) count *= n;
  std::vector<int32_t> from(count);
  const int missing = int(pairs.size() - batch.size());
  for (int64_t i = 0; i < count; i++) {
    int64_t rest = i, block = 0, step = 1;
    for (int axis = int(pairs.size()) - 1; axis >= 0; axis--) {
      const int64_t at = rest % pairs[axis];
      rest /= pairs[axis];
      if (axis < missing) continue;
      if (batch[axis - missing] != 1) block += at * step;
      step *= batch[axis - missing];
    }
    from[i] = int32_t(block);
  }
  return from;
}

// The shape of the pairs, or nothing where the two don't broadcast.
std::optional<mx::Shape> broadcast(const mx::Shape& a, const mx::Shape& b) {
  const mx::Shape &longer = a.size() >= b.size() ? a : b, &shorter = a.size() >= b.size() ? b : a;
  mx::Shape out = longer;
  const size_t missing = longer.size() - shorter.size();
  for (size_t i = 0; i < shorter.size(); i++) {
    const int n = longer[i + missing], m = shorter[i];
    if (n != m && n != 1 && m != 1) return std::nullopt;
    out[i + missing] = n == 1 ? m : n;
  }
  return out;
}

mx::Shape batch_of(const mx::array& a) { return mx::Shape(a.shape().begin(), a.shape().end() - 2); }

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
  QuantizedGather(mx::Stream s, std::vector<int32_t> from, mx::Shape batch, const Layout& l)
      : GatherMatmul(s, std::move(from), std::move(batch)), layout_(l) {}
  const char* name() const override { return "mlxlm.QuantizedGather"; }

  mx::array plain(const std::vector<mx::array>& in) const override {
    const MaybeArray biases = layout_.affine() ? MaybeArray(in[4]) : std::nullopt;
    auto y = mx::gather_qmm(in[0], in[2], in[3], biases, from_array(), in[1], true, layout_.group, layout_.bits,
                            layout_.mode());
    return mx::astype(y, in[0].dtype());
  }

  void eval_cpu(const std::vector<mx::array>& in, mx::array& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    ExpertRows rows = rows_of(in, out, in[2].shape(0), encoder);
    // The primitive may be gone when this runs: the indices go along.
    encoder.dispatch([rows, first = matrix_of(layout_, in, 2, encoder), from = from_]() mutable {
      rows.from = from.data();
      run_experts(rows, [&](int expert, const MatmulRows& r) {
        QuantizedMatrix w = first;
        const size_t scales = size_t(expert) * w.N * w.groups() * w.scale_size();
        w.codes += size_t(expert) * w.N * w.row_bytes();
        w.scales = (const char*)w.scales + scales;
        if (w.biases) w.biases = (const char*)w.biases + scales;
        kernels().quantized_matmul(w, r);
      });
    });
  }

 private:
  Layout layout_;
};

// The matrices are (E, K, N), as mx.gather_mm takes them; fast where K is the contiguous axis.
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
    const mx::array& w = in[2];
    ExpertRows rows = rows_of(in, out, w.shape(0), encoder);
    const DenseMatrix first{w.data<void>(), kernel_type(w.dtype()), w.shape(2), w.shape(1), w.strides(2)};
    encoder.dispatch([rows, first, apart = w.strides(0), from = from_]() mutable {
      rows.from = from.data();
      run_experts(rows, [&](int expert, const MatmulRows& r) {
        DenseMatrix m = first;
        m.data = (const char*)m.data + size_of(m.type) * apart * expert;
        kernels().dense_matmul(m, r);
      });
    });
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
  const auto pairs = l.valid && transpose && !global_scale ? pairs_of(x, lhs_indices, rhs_indices) : std::nullopt;
  if (!pairs || x.shape(-1) != scales.shape(-1) * l.group)
    return mx::astype(mx::gather_qmm(x, w, scales, biases, lhs_indices, rhs_indices, transpose, group_size, bits, mode,
                                     global_scale, sorted_indices),
                      x.dtype());
  std::vector<mx::array> inputs{x, mx::astype(mx::broadcast_to(*rhs_indices, pairs->first), mx::uint32), w, scales};
  if (biases) inputs.push_back(*biases);
  auto kernel = std::make_shared<QuantizedGather>(cpu_stream(), pairs->second, pairs->first, l);
  return mx::array(result_shape(pairs->first, x.shape(-2), w.shape(1)), x.dtype(), std::move(kernel), std::move(inputs));
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
  // K has to be contiguous. Where it already is, as in a stack of (N, K) seen the other way, this moves nothing.
  auto rows_of_k = mx::swapaxes(mx::contiguous(mx::swapaxes(w, 1, 2)), 1, 2);
  std::vector<mx::array> inputs{mx::astype(x, type),
                                mx::astype(mx::broadcast_to(*rhs_indices, pairs->first), mx::uint32), rows_of_k};
  auto kernel = std::make_shared<DenseGather>(cpu_stream(), pairs->second, pairs->first);
  return mx::array(result_shape(pairs->first, x.shape(-2), w.shape(2)), type, std::move(kernel), std::move(inputs));
}

}  // namespace mlxlm
