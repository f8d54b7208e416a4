// A decoder's block as one MLX operation. Its gradients come from the single operations.
#include "block_run.h"

namespace mlxlm {

namespace {

// Inputs: x, the block's arrays, keys, values, then offsets and mask where they are arrays.
class Block : public mx::Primitive {
 public:
  Block(mx::Stream s, std::shared_ptr<const BlockShape> shape, BlockCall call)
      : mx::Primitive(s), shape_(std::move(shape)), call_(call), at_(*shape_, 1) {}
  const char* name() const override { return "mlxlm.Block"; }
  void eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) override {
    throw std::runtime_error("mlxlm.Block runs on the CPU only");
  }

  void eval_cpu(const std::vector<mx::array>& in, std::vector<mx::array>& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    // Each output refers to all inputs, and what is referred to twice is not given away: this one's are enough.
    for (mx::array& a : out)
      if (&a.inputs() != &in && !a.is_tracer()) a.inputs().clear();
    allocate(out[0]);
    Buffers buffers(in[at_.end]);
    for (int i : {0, 1}) buffers.take(in[at_.end + i], out[1 + i], encoder);
    BlockRun run(*shape_, at_, in, encoder);
    run.set_rows(in[0], row_major(in[0], encoder), out[0].data<void>());
    run.set_cache(call_, out[1], out[2]);
    int next = at_.end + 2;
    if (call_.has_offsets) run.set_offsets(in[next++], encoder);
    if (call_.has_mask) set_mask(run.attention.mask, in[next]);
    encoder.dispatch([run, shape = shape_, ended = Buffers::leave(out[1])]() mutable {
      const Landing landing(ended);
      run();
    });
  }

  std::vector<mx::array> vjp(const std::vector<mx::array>& primals, const std::vector<mx::array>& cotangents,
                             const std::vector<int>& argnums, const std::vector<mx::array>&) override {
    std::vector<mx::array> some;
    for (int i : argnums) some.push_back(primals[i]);
    auto f = [&](const std::vector<mx::array>& given) {
      auto all = primals;
      for (size_t i = 0; i < argnums.size(); i++) all[argnums[i]] = given[i];
      return plain(all);
    };
    return mx::vjp(f, some, cotangents).second;
  }

 private:
  // The same from the single operations.
  std::vector<mx::array> plain(const std::vector<mx::array>& in) const {
    const AttentionShape& s = shape_->attention;
    const auto norm = [&](const NormShape& n, int place, const mx::array& x) {
      if (!n) return x;
      const float more = std::get<1>(*n);
      return op_rms_norm(x, more == 0 ? in[place] : mx::add(in[place], mx::array(more, in[place].dtype())),
                         std::get<0>(*n));
    };
    const auto heads = [&](const mx::array& x, int count) {
      return mx::reshape(x, {x.shape(0), x.shape(1), count, x.shape(2) / count});
    };
    mx::array x = in[0], h = norm(shape_->before, at_.before, x);
    mx::array q = norm(s.q_norm, at_.q_norm, heads(s.q.plain(h, in, at_.q), s.heads));
    mx::array k = norm(s.k_norm, at_.k_norm, heads(s.k.plain(h, in, at_.k), s.kv_heads));
    mx::array v = mx::swapaxes(heads(s.v.plain(h, in, at_.v), s.kv_heads), 1, 2);
    q = turned(mx::swapaxes(q, 1, 2), in), k = turned(mx::swapaxes(k, 1, 2), in);
    const auto stored = [&](const mx::array& cache, const mx::array& more) {
      auto end = more.shape();
      end[2] += call_.start;
      return mx::slice_update(cache, more, {0, 0, call_.start, 0}, end);
    };
    const auto seen = [&](const mx::array& cache) {
      auto end = cache.shape();
      end[2] = call_.start + x.shape(1);
      return mx::slice(cache, {0, 0, call_.first, 0}, end);
    };
    mx::array keys = stored(in[at_.end], k), values = stored(in[at_.end + 1], v);
    AnyMask mask;
    if (call_.causal && x.shape(1) > 1) mask = std::string("causal");
    if (call_.has_mask) mask = in.back();
    mx::array y = op_attention(q, seen(keys), seen(values), s.scale, mask,
                               s.sinks ? MaybeArray(in[at_.sinks]) : std::nullopt,
                               s.cap != 0 ? std::optional(s.cap) : std::nullopt);
    y = mx::flatten(mx::swapaxes(y, 1, 2), 2, 3);
    x = mx::add(x, norm(shape_->after, at_.after, s.o.plain(y, in, at_.o)));
    if (shape_->mlp) {
      const FeedForwardShape& m = *shape_->mlp;
      h = norm(shape_->before_mlp, at_.before_mlp, x);
      const auto up = m.up.plain(h, in, at_.up);
      h = m.gated ? op_gated(m.act, m.gate.plain(h, in, at_.gate), up) : op_gated(m.act, up, std::nullopt);
      x = mx::add(x, norm(shape_->after_mlp, at_.after_mlp, m.down.plain(h, in, at_.down)));
    }
    return {x, keys, values};
  }

  mx::array turned(const mx::array& x, const std::vector<mx::array>& in) const {
    const AttentionShape& s = shape_->attention;
    if (!s.rope_dims) return x;
    Offset offset = call_.offset;
    if (call_.has_offsets) offset = in[at_.end + 2];
    const MaybeArray freqs = s.has_freqs ? MaybeArray(in[at_.freqs]) : std::nullopt;
    return op_rope(x, s.rope_dims, s.traditional, s.has_freqs ? std::nullopt : std::optional<float>(s.base), 1.f, offset,
                   freqs);
  }

  std::shared_ptr<const BlockShape> shape_;
  BlockCall call_;
  Places at_;
};

}  // namespace

bool fits_norm(const NormShape& s, const std::vector<mx::array>& in, int place, int size, mx::Dtype type) {
  return !s || (in[place].ndim() == 1 && in[place].shape(0) == size &&
                (in[place].dtype() == type || (type == mx::float32 && is_kernel_float(in[place].dtype()))));
}

static bool fits_attention(const AttentionShape& a, const Places& at, const std::vector<mx::array>& in, mx::Dtype type,
                           int dim, int Dv) {
  const int D = a.head_dim;
  return fits_norm(a.q_norm, in, at.q_norm, D, type) && fits_norm(a.k_norm, in, at.k_norm, D, type) &&
         a.q.fits(in, at.q, dim, type, a.heads * D) && a.k.fits(in, at.k, dim, type, a.kv_heads * D) &&
         a.v.fits(in, at.v, dim, type, a.kv_heads * Dv) && a.o.fits(in, at.o, a.heads * Dv, type, dim) &&
         (!a.sinks || (in[at.sinks].ndim() == 1 && in[at.sinks].shape(0) == a.heads &&
                       is_kernel_float(in[at.sinks].dtype()))) &&
         (!a.has_freqs || (in[at.freqs].dtype() == mx::float32 && int(in[at.freqs].size()) == a.rope_dims / 2));
}

static bool fits_mlp(const FeedForwardShape& s, const Places& at, const std::vector<mx::array>& in, mx::Dtype type, int dim) {
  const int hidden = in[at.up].shape(0);
  return (!s.gated || s.gate.fits(in, at.gate, dim, type, hidden)) && s.up.fits(in, at.up, dim, type, hidden) &&
         s.down.fits(in, at.down, hidden, type, dim);
}

static bool fits_router(const ExpertsShape& s, const Places& at, const std::vector<mx::array>& in, mx::Dtype type, int dim) {
  const mx::array& w = in[at.router];
  const int experts = in[at.experts].shape(0);
  if (!s.scored) return s.router.fits(in, at.router, dim, type, experts);
  const mx::array& bias = in[at.choice_bias];
  return !s.router.quantized && !s.router.has_bias && w.shape() == mx::Shape({experts, dim}) && w.strides(1) == 1 &&
         is_kernel_float(w.dtype()) && bias.shape() == mx::Shape({experts}) && is_kernel_float(bias.dtype());
}

static bool fits_experts(const ExpertsShape& s, const Places& at, const std::vector<mx::array>& in, mx::Dtype type, int dim) {
  const RouteShape& r = s.route;
  const int experts = in[at.experts].shape(0);
  return fits_router(s, at, in, type, dim) && r.k > 0 && r.k <= experts && r.groups > 0 && experts % r.groups == 0 &&
         r.keep_groups > 0 && r.keep_groups <= r.groups && r.group_best > 0 &&
         fit_as_experts(s.linears, in, at.experts, dim);
}

bool fits_weights(const BlockShape& s, const Places& at, const std::vector<mx::array>& in, mx::Dtype type, int dim, int Dv) {
  return fits_norm(s.before, in, at.before, dim, type) && fits_norm(s.after, in, at.after, dim, type) &&
         (s.mixer != Mixer::attention || fits_attention(s.attention, at, in, type, dim, Dv)) &&
         (s.mixer != Mixer::mamba || fits_mamba(s.mamba, at, in, type, dim)) &&
         fits_norm(s.before_mlp, in, at.before_mlp, dim, type) && fits_norm(s.after_mlp, in, at.after_mlp, dim, type) &&
         (!s.mlp || fits_mlp(*s.mlp, at, in, type, dim)) && (!s.experts || fits_experts(*s.experts, at, in, type, dim)) &&
         (s.mixer != Mixer::none || s.feeds());
}

// What the halves of a block keep beside each other for each position; beyond it single operations need less.
constexpr size_t kRoom = 1 << 26;

bool fits_cache(const BlockShape& s, const mx::array& x, const mx::array& keys, const mx::array& values, BlockPlace p) {
  const AttentionShape& a = s.attention;
  const size_t each = 2 * size_t(x.shape(2)) + size_t(a.head_dim) * (3 * a.heads + 3 * a.kv_heads);
  if (x.nbytes() / x.shape(2) * each > kRoom) return false;
  return keys.ndim() == 4 && values.ndim() == 4 && keys.dtype() == x.dtype() && values.dtype() == x.dtype() &&
         keys.shape(0) == x.shape(0) && keys.shape(1) == a.kv_heads && keys.shape(3) == a.head_dim &&
         values.shape(0) == x.shape(0) && values.shape(1) == a.kv_heads && values.shape(2) == keys.shape(2) &&
         p.first >= 0 && p.start >= p.first && p.start + x.shape(1) <= keys.shape(2);
}

bool fits_memory(const BlockShape& s, const mx::array& x, const Memory& memory, BlockPlace p) {
  if (memory.size() != (s.mixer == Mixer::none ? 0 : 2)) return false;
  if (s.mixer == Mixer::attention) return fits_cache(s, x, memory[0], memory[1], p);
  const MambaShape& m = s.mamba;
  const int B = x.shape(0);
  return s.mixer == Mixer::none ||
         (memory[0].shape() == mx::Shape({B, m.width - 1, m.channels()}) && memory[0].dtype() == x.dtype() &&
          memory[1].shape() == mx::Shape({B, m.heads, m.head_dim, m.state}) && memory[1].dtype() == mx::float32);
}

bool read_offset(const mx::array& x, const Offset& offset, BlockCall& call, std::vector<mx::array>& inputs) {
  if (const auto* number = std::get_if<int>(&offset)) {
    call.offset = *number;
    return true;
  }
  const mx::array& offsets = std::get<mx::array>(offset);
  const bool one = offsets.size() == 1, each = offsets.ndim() == 1 && offsets.shape(0) == x.shape(0);
  if (!(one || each) || !mx::issubdtype(offsets.dtype(), mx::integer)) return false;
  inputs.push_back(mx::astype(offsets, mx::int32));
  return call.has_offsets = true;
}

bool read_mask(const BlockShape& s, const mx::array& x, const AnyMask& mask, BlockCall& call, std::vector<mx::array>& inputs) {
  if (const auto* name = std::get_if<std::string>(&mask)) return call.causal = *name == "causal";
  if (std::holds_alternative<std::monostate>(mask)) return true;
  const mx::array& array = std::get<mx::array>(mask);
  if (!fits_mask(array, {x.shape(0), s.attention.heads, x.shape(1), call.start + x.shape(1) - call.first})) return false;
  inputs.push_back(array);
  return call.has_mask = true;
}

std::optional<BlockResult> op_block(const std::shared_ptr<const BlockShape>& shape, const BlockArguments& a) {
  const Places at(*shape, 1);
  if (!on_cpu() || a.x.ndim() != 3 || a.x.size() == 0 || !is_kernel_float(a.x.dtype())) return std::nullopt;
  if (shape->mixer != Mixer::attention || shape->experts) return std::nullopt;  // others have no gradient here
  if (int(a.arrays.size()) + 1 != at.end || !fits_cache(*shape, a.x, a.keys, a.values, a.place)) return std::nullopt;
  std::vector<mx::array> inputs;
  inputs.reserve(at.end + 4);
  inputs.push_back(a.x);
  inputs.insert(inputs.end(), a.arrays.begin(), a.arrays.end());
  if (!fits_weights(*shape, at, inputs, a.x.dtype(), a.x.shape(2), a.values.shape(3))) return std::nullopt;
  inputs.push_back(a.keys);
  inputs.push_back(a.values);
  // Gradients come from the single operations, so that many positions would be worked out twice.
  if (a.x.size() / a.x.shape(2) > kDecoding)
    for (const mx::array& i : inputs) if (i.is_tracer()) return std::nullopt;
  BlockCall call{a.place.start, a.place.first};
  if (!read_offset(a.x, a.offset, call, inputs) || !read_mask(*shape, a.x, a.mask, call, inputs)) return std::nullopt;
  auto out = mx::array::make_arrays({a.x.shape(), a.keys.shape(), a.values.shape()},
                                    {a.x.dtype(), a.x.dtype(), a.x.dtype()},
                                    std::make_shared<Block>(cpu_stream(), shape, call), inputs);
  return BlockResult(out[0], out[1], out[2]);
}

}  // namespace mlxlm
