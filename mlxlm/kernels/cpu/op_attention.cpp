// Attention as an MLX operation.
#include "ops.h"
#include "primitive.h"

namespace mlxlm {

namespace {

void copy_strides(const mx::array& a, int64_t* to) {
  for (int i = 0; i < 3; i++) to[i] = a.strides(i);
}

class ScaledAttention : public Kernel {
 public:
  ScaledAttention(mx::Stream s, float scale, bool causal, bool has_mask, bool has_sinks)
      : Kernel(s), scale_(scale), causal_(causal), has_mask_(has_mask), has_sinks_(has_sinks) {}
  const char* name() const override { return "mlxlm.Attention"; }

  mx::array plain(const std::vector<mx::array>& in) const override {
    return mx::fast::scaled_dot_product_attention(in[0], in[1], in[2], scale_, causal_ ? "causal" : "",
                                                  has_mask_ ? MaybeArray(in[3]) : std::nullopt,
                                                  has_sinks_ ? MaybeArray(in.back()) : std::nullopt);
  }

  void eval_cpu(const std::vector<mx::array>& in, mx::array& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    mx::array q = in[0], k = in[1], v = in[2];
    make_rows(q, encoder);
    make_rows(k, encoder);
    make_rows(v, encoder);
    Attention a{};
    a.type = kernel_type(q.dtype());
    a.B = q.shape(0), a.Hq = q.shape(1), a.L = q.shape(2), a.D = q.shape(3);
    a.Hk = k.shape(1), a.S = k.shape(2), a.Dv = v.shape(3);
    a.q = q.data<void>(), a.k = k.data<void>(), a.v = v.data<void>();
    copy_strides(q, a.q_stride), copy_strides(k, a.k_stride), copy_strides(v, a.v_stride);
    a.scale = scale_;
    if (causal_ && a.L > 1) a.mask.kind = Mask::causal;
    if (has_mask_) set_mask(a.mask, in[3]);
    lay_out(a, out);
    const Vector sinks = has_sinks_ ? Vector(in.back(), encoder) : Vector();
    encoder.dispatch([a, sinks]() mutable {
      a.sinks = sinks.read((float*)scratch(kInput, sizeof(float) * (sinks.size + 1)));
      kernels().attention(a);
    });
  }

 private:
  // The output's memory is (B, L, Hq, Dv), so that its transpose to that shape is a view.
  static void lay_out(Attention& a, mx::array& out) {
    const int64_t Hq = a.Hq, L = a.L, Dv = a.Dv;
    const bool plain_order = L == 1 || Hq == 1;
    out.set_data(mx::allocator::malloc(out.nbytes()), out.size(), {L * Hq * Dv, Dv, Hq * Dv, 1},
                 {true, plain_order, false});
    a.out = out.data<void>();
  }

  float scale_;
  bool causal_, has_mask_, has_sinks_;
};

bool broadcasts(const mx::array& m, const mx::Shape& to) {
  if (m.ndim() > to.size()) return false;
  for (int i = 1; i <= int(m.ndim()); i++)
    if (m.shape(-i) != 1 && m.shape(-i) != to[to.size() - i]) return false;
  return true;
}

}  // namespace

void set_mask(Mask& mask, const mx::array& m) {
  mask.kind = m.dtype() == mx::bool_ ? Mask::boolean : Mask::additive;
  mask.type = m.dtype() == mx::bool_ ? Dtype::f32 : kernel_type(m.dtype());
  mask.data = m.data<void>();
  const int missing = 4 - int(m.ndim());
  for (int i = missing; i < 4; i++) mask.stride[i] = m.shape(i - missing) == 1 ? 0 : m.strides(i - missing);
}

bool fits_mask(const mx::array& mask, const mx::Shape& scores) {
  return (mask.dtype() == mx::bool_ || is_kernel_float(mask.dtype())) && broadcasts(mask, scores);
}

mx::array op_attention(const mx::array& q, const mx::array& k, const mx::array& v, float scale,
                       const std::variant<std::monostate, std::string, mx::array>& mask, const MaybeArray& sinks) {
  const std::string* name = std::get_if<std::string>(&mask);
  const mx::array* array = std::get_if<mx::array>(&mask);
  const bool causal = name && *name == "causal";
  bool fits = on_cpu() && is_kernel_float(q.dtype()) && k.dtype() == q.dtype() && v.dtype() == q.dtype() &&
              q.ndim() == 4 && k.ndim() == 4 && v.ndim() == 4 && q.size() > 0 && k.size() > 0 && v.size() > 0;
  fits = fits && (!name || causal || name->empty());
  fits = fits && q.shape(0) == k.shape(0) && k.shape(0) == v.shape(0) && q.shape(3) == k.shape(3) &&
         k.shape(1) == v.shape(1) && k.shape(2) == v.shape(2) && q.shape(1) % k.shape(1) == 0;
  fits = fits && !(causal && q.shape(2) > k.shape(2));
  fits = fits && (!array || fits_mask(*array, {q.shape(0), q.shape(1), q.shape(2), k.shape(2)}));
  fits = fits && (!sinks || (sinks->ndim() == 1 && sinks->shape(0) == q.shape(1) && is_kernel_float(sinks->dtype())));
  if (!fits)
    return mx::fast::scaled_dot_product_attention(q, k, v, scale, name ? *name : "",
                                                  array ? MaybeArray(*array) : std::nullopt, sinks);
  std::vector<mx::array> inputs{q, k, v};
  if (array) inputs.push_back(*array);
  if (sinks) inputs.push_back(*sinks);
  auto kernel = std::make_shared<ScaledAttention>(cpu_stream(), scale, causal, array != nullptr, sinks.has_value());
  return mx::array({q.shape(0), q.shape(1), q.shape(2), v.shape(3)}, q.dtype(), std::move(kernel), std::move(inputs));
}

}  // namespace mlxlm
