// Attention as an MLX operation.
#include "mlx/utils.h"
#include "ops.h"
#include "primitive.h"

namespace mlxlm {

namespace {

void copy_strides(const mx::array& a, int64_t* to) {
  for (int i = 0; i < 3; i++) to[i] = a.strides(i);
}

// A mask of any form for scores (B, Hk, Hq / Hk, L, S): booleans or numbers, or nothing.
MaybeArray by_key_head(const mx::array& mask, int Hk) {
  if (mask.ndim() < 3) return mask;
  const mx::array m = mask.ndim() == 3 ? mx::expand_dims(mask, 0) : mask;
  if (m.shape(1) == 1) return mx::expand_dims(m, 1);
  return mx::reshape(m, {m.shape(0), Hk, m.shape(1) / Hk, m.shape(2), m.shape(3)});
}

struct Scoring {
  float scale, cap;  // 0 for no cap
  bool causal, has_mask, has_sinks;

  // From MLX's own operations.
  mx::array plain(const mx::array& q, const mx::array& k, const mx::array& v, const MaybeArray& mask,
                  const MaybeArray& sinks) const {
    if (cap == 0) return mx::fast::scaled_dot_product_attention(q, k, v, scale, causal ? "causal" : "", mask, sinks);
    const int B = q.shape(0), Hq = q.shape(1), L = q.shape(2), Hk = k.shape(1), S = k.shape(2);
    const mx::array by_head = mx::reshape(q, {B, Hk, Hq / Hk, L, q.shape(3)});
    const auto number = [&](float x) { return mx::array(x, q.dtype()); };
    mx::array scores = mx::matmul(by_head * number(scale), mx::swapaxes(mx::expand_dims(k, 2), -1, -2));
    scores = number(cap) * mx::tanh(scores / number(cap));
    MaybeArray seen = mask;
    if (causal) seen = mx::less_equal(mx::arange(S), mx::expand_dims(mx::arange(S - L, S), 1));
    if (seen) {
      const mx::array m = *by_key_head(*seen, Hk);
      scores = m.dtype() == mx::bool_ ? mx::where(m, scores, mx::array(mx::finfo(q.dtype()).min, q.dtype())) : scores + m;
    }
    if (sinks) {
      const mx::array column = mx::broadcast_to(mx::reshape(*sinks, {1, Hk, Hq / Hk, 1, 1}), {B, Hk, Hq / Hk, L, 1});
      scores = mx::concatenate({mx::astype(column, q.dtype()), scores}, -1);
    }
    mx::array weights = mx::softmax(scores, -1, true);
    if (sinks) weights = mx::slice(weights, {0, 0, 0, 0, 1}, {B, Hk, Hq / Hk, L, S + 1});
    return mx::reshape(mx::matmul(weights, mx::expand_dims(v, 2)), {B, Hq, L, v.shape(3)});
  }
};

// Inputs: q, then k and v or, where they are packed, codes, scales and biases of each, then mask and sinks.
class ScaledAttention : public Kernel {
 public:
  ScaledAttention(mx::Stream s, Scoring how, int bits = 0, int group = 0)
      : Kernel(s), how_(how), bits_(bits), group_(group) {}
  const char* name() const override { return "mlxlm.Attention"; }

  mx::array plain(const std::vector<mx::array>& in) const override {
    const auto unpacked = [&](int i) {
      return bits_ ? mx::dequantize(in[1 + 3 * i], in[2 + 3 * i], in[3 + 3 * i], group_, bits_) : in[1 + i];
    };
    return how_.plain(in[0], unpacked(0), unpacked(1), how_.has_mask ? MaybeArray(in[first()]) : std::nullopt,
                      how_.has_sinks ? MaybeArray(in.back()) : std::nullopt);
  }

  void eval_cpu(const std::vector<mx::array>& in, mx::array& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    std::vector<mx::array> rows(in.begin(), in.begin() + first());
    for (mx::array& a : rows) make_rows(a, encoder);
    const mx::array &q = rows[0], &k = rows[1], &v = rows[bits_ ? 4 : 2];
    Attention a{};
    a.type = kernel_type(q.dtype());
    a.B = q.shape(0), a.Hq = q.shape(1), a.L = q.shape(2), a.D = q.shape(3);
    a.Hk = k.shape(1), a.S = k.shape(2), a.Dv = out.shape(3);
    a.q = q.data<void>(), a.k = k.data<void>(), a.v = v.data<void>();
    copy_strides(q, a.q_stride), copy_strides(k, a.k_stride), copy_strides(v, a.v_stride);
    if (bits_) {
      a.bits = bits_, a.group = group_;
      a.k_groups = groups(rows[2], rows[3]), a.v_groups = groups(rows[5], rows[6]);
      for (int i = 0; i < 3; i++) a.k_stride[i] *= 4, a.v_stride[i] *= 4;
    }
    a.scale = how_.scale, a.cap = how_.cap;
    if (how_.causal && a.L > 1) a.mask.kind = Mask::causal;
    if (how_.has_mask) set_mask(a.mask, in[first()]);
    lay_out(a, out);
    const Vector sinks = how_.has_sinks ? Vector(in.back(), encoder) : Vector();
    encoder.dispatch([a, sinks]() mutable {
      a.sinks = sinks.read((float*)scratch(kInput, sizeof(float) * (sinks.size + 1)));
      kernels().attention(a);
    });
  }

 private:
  int first() const { return bits_ ? 7 : 3; }

  static GroupScales groups(const mx::array& scales, const mx::array& biases) {
    GroupScales g{scales.data<void>(), biases.data<void>(), {}, {}};
    copy_strides(scales, g.stride), copy_strides(biases, g.bias_stride);
    return g;
  }

  // The output's memory is (B, L, Hq, Dv), so that its transpose to that shape is a view.
  static void lay_out(Attention& a, mx::array& out) {
    const int64_t Hq = a.Hq, L = a.L, Dv = a.Dv;
    const bool plain_order = L == 1 || Hq == 1;
    out.set_data(mx::allocator::malloc(out.nbytes()), out.size(), {L * Hq * Dv, Dv, Hq * Dv, 1},
                 {true, plain_order, false});
    a.out = out.data<void>();
  }

  Scoring how_;
  int bits_, group_;
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

namespace {

using AnyMask = std::variant<std::monostate, std::string, mx::array>;

bool fits_scores(const mx::array& q, int Hk, int S, const AnyMask& mask, const MaybeArray& sinks) {
  const std::string* name = std::get_if<std::string>(&mask);
  const mx::array* array = std::get_if<mx::array>(&mask);
  const int Hq = q.shape(1), L = q.shape(2);
  if (Hq % Hk != 0 || (name && *name != "causal" && !name->empty()) || (name && *name == "causal" && L > S)) return false;
  if (array && !fits_mask(*array, {q.shape(0), Hq, L, S})) return false;
  return !sinks || (sinks->ndim() == 1 && sinks->shape(0) == Hq && is_kernel_float(sinks->dtype()));
}

Scoring scoring(float scale, const AnyMask& mask, const MaybeArray& sinks, const std::optional<float>& cap) {
  const std::string* name = std::get_if<std::string>(&mask);
  return {scale, cap.value_or(0.f), name && *name == "causal", std::holds_alternative<mx::array>(mask), sinks.has_value()};
}

mx::array attention_of(std::vector<mx::array> inputs, const Scoring& how, const AnyMask& mask, const MaybeArray& sinks,
                       int Dv, int bits, int group) {
  const mx::array& q = inputs[0];
  const mx::Shape shape{q.shape(0), q.shape(1), q.shape(2), Dv};
  const mx::Dtype type = q.dtype();
  if (how.has_mask) inputs.push_back(std::get<mx::array>(mask));
  if (sinks) inputs.push_back(*sinks);
  return mx::array(shape, type, std::make_shared<ScaledAttention>(cpu_stream(), how, bits, group), std::move(inputs));
}

// Codes, scales and biases of rows that the kernels unpack, for queries like q.
bool fits_packed(const mx::array& q, const std::vector<mx::array>& rows, int group, int bits) {
  if (rows.size() != 3) return false;
  const mx::array &codes = rows[0], &scales = rows[1], &biases = rows[2];
  if (codes.ndim() != 4 || scales.ndim() != 4 || codes.dtype() != mx::uint32 || scales.dtype() != q.dtype()) return false;
  if (biases.dtype() != q.dtype() || biases.shape() != scales.shape() || codes.size() == 0) return false;
  for (int i = 0; i < 3; i++)
    if (codes.shape(i) != scales.shape(i)) return false;
  return codes.shape(0) == q.shape(0) && codes.shape(3) * 32 == scales.shape(3) * group * bits;
}

}  // namespace

mx::array op_attention(const mx::array& q, const mx::array& k, const mx::array& v, float scale, const AnyMask& mask,
                       const MaybeArray& sinks, const std::optional<float>& cap) {
  bool fits = on_cpu() && is_kernel_float(q.dtype()) && k.dtype() == q.dtype() && v.dtype() == q.dtype() &&
              q.ndim() == 4 && k.ndim() == 4 && v.ndim() == 4 && q.size() > 0 && k.size() > 0 && v.size() > 0;
  fits = fits && q.shape(0) == k.shape(0) && k.shape(0) == v.shape(0) && q.shape(3) == k.shape(3) &&
         k.shape(1) == v.shape(1) && k.shape(2) == v.shape(2) && fits_scores(q, k.shape(1), k.shape(2), mask, sinks);
  const Scoring how = scoring(scale, mask, sinks, cap);
  if (fits) return attention_of({q, k, v}, how, mask, sinks, v.shape(3), 0, 0);
  const std::string* name = std::get_if<std::string>(&mask);
  const mx::array* array = std::get_if<mx::array>(&mask);
  if (name && !how.causal) return mx::fast::scaled_dot_product_attention(q, k, v, scale, *name, std::nullopt, sinks);
  return how.plain(q, k, v, array ? MaybeArray(*array) : std::nullopt, sinks);
}

MaybeArray op_packed_attention(const mx::array& q, const std::vector<mx::array>& k, const std::vector<mx::array>& v,
                               int group_size, int bits, float scale, const AnyMask& mask, const MaybeArray& sinks,
                               const std::optional<float>& cap) {
  if (!on_cpu() || !is_kernel_float(q.dtype()) || q.ndim() != 4 || q.size() == 0) return std::nullopt;
  if ((bits != 4 && bits != 8) || group_size < 32 || group_size % 32 != 0) return std::nullopt;
  if (!fits_packed(q, k, group_size, bits) || !fits_packed(q, v, group_size, bits)) return std::nullopt;
  const int Hk = k[0].shape(1), S = k[0].shape(2), D = k[1].shape(3) * group_size, Dv = v[1].shape(3) * group_size;
  if (D != q.shape(3) || v[0].shape(1) != Hk || v[0].shape(2) != S) return std::nullopt;
  if (!fits_scores(q, Hk, S, mask, sinks)) return std::nullopt;
  std::vector<mx::array> inputs{q};
  inputs.insert(inputs.end(), k.begin(), k.end());
  inputs.insert(inputs.end(), v.begin(), v.end());
  return attention_of(std::move(inputs), scoring(scale, mask, sinks, cap), mask, sinks, Dv, bits, group_size);
}

}  // namespace mlxlm
