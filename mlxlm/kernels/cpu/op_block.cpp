// A decoder's block as one MLX operation: norms, projections, rope, cache, attention, residuals, without a trip to MLX
// between them. For a few positions, where such trips cost more than the work.
#include "angles.h"
#include "block.h"

#include <cstring>

namespace mlxlm {

namespace {

struct Norm {
  Vector weight;
  float eps = 0, offset = 0;
  bool present = false;

  Norm() = default;
  Norm(const NormShape& s, const std::vector<mx::array>& in, int place, mx::cpu::CommandEncoder& encoder) {
    if (!s) return;
    weight = Vector(in[place], encoder);
    std::tie(eps, offset) = *s;
    present = true;
  }
  void run(Dtype type, const void* x, void* out, int64_t rows, Arena& arena) const {
    const float* w = weight.read((float*)arena.take(sizeof(float) * weight.size));
    if (offset != 0) {
      float* moved = (float*)arena.take(sizeof(float) * weight.size);
      for (int i = 0; i < weight.size; i++) moved[i] = w[i] + offset;
      w = moved;
    }
    kernels().rms_norm(type, x, w, eps, out, type, rows, weight.size);
  }
  size_t bytes() const { return present ? 2 * Arena::piece(sizeof(float) * weight.size) : 0; }
};

// One run of a block: everything by pointers, as MLX's arrays may be gone by then.
struct Run {
  BlockShape shape;
  BlockCall call;
  Dtype type;
  int B, L, dim;
  const void* x;
  void* out;
  Norm before, after, before_mlp, after_mlp, q_norm, k_norm;
  Projection q, k, v, o, gate, up, down;
  Vector sinks;
  const float* freqs = nullptr;
  const int32_t* offsets = nullptr;
  int offset_count = 1;
  Attention attention{};  // k and v as the cache has them

  size_t item() const { return size_of(type); }
  int M() const { return B * L; }
  Rows rows() const { return {type, M()}; }

  size_t memory() const {
    size_t bytes = 0;
    for (int n : {dim, dim, dim, q.N(), q.N(), q.N(), k.N(), k.N(), v.N(), shape.mlp ? gate.N() : 0, shape.mlp ? up.N() : 0})
      bytes += Arena::piece(item() * M() * n);
    for (const Norm* n : {&before, &after, &before_mlp, &after_mlp, &q_norm, &k_norm}) bytes += n->bytes();
    for (const Projection* p : {&q, &k, &v, &o, &gate, &up, &down}) bytes += Arena::piece(sizeof(float) * p->bias.size);
    return bytes + Arena::piece(sizeof(float) * sinks.size) + 4096;
  }

  void operator()() {
    Arena arena(memory());
    for (Projection* p : {&q, &k, &v, &o, &gate, &up, &down}) read_bias(*p, arena);
    void* between = shape.mlp ? arena.take(item() * M() * dim) : out;
    attend(arena, between);
    if (shape.mlp) feed(arena, between);
  }

  // y = x + after(o(attention(before(x))))
  void attend(Arena& arena, void* y) {
    const auto room = [&](int n) { return arena.take(item() * M() * n); };
    void *h = room(dim), *qs = room(q.N()), *ks = room(k.N()), *vs = room(v.N());
    before.present ? before.run(type, x, h, M(), arena) : (void)std::memcpy(h, x, item() * M() * dim);
    const Projection qkv[3] = {q, k, v};
    void* const to[3] = {qs, ks, vs};
    project_each(qkv, 3, rows(), h, to);
    const int D = shape.attention.head_dim, Hq = shape.attention.heads, Hk = shape.attention.kv_heads;
    if (q_norm.present) q_norm.run(type, qs, qs, int64_t(M()) * Hq, arena);
    if (k_norm.present) k_norm.run(type, ks, ks, int64_t(M()) * Hk, arena);
    Attention a = attention;
    a.q = qs;
    a.q_stride[0] = int64_t(L) * Hq * D, a.q_stride[1] = D, a.q_stride[2] = int64_t(Hq) * D;
    if (shape.attention.rope_dims) {
      void *turned = room(q.N()), *turned_keys = room(k.N());
      turn(qs, turned, Hq);
      turn(ks, turned_keys, Hk);
      a.q = turned;
      a.q_stride[1] = int64_t(L) * D, a.q_stride[2] = D;
      append(turned_keys, a.k, a.k_stride, D, {int64_t(Hk) * L * D, int64_t(L) * D, D});
    } else {
      append(ks, a.k, a.k_stride, D, {int64_t(L) * Hk * D, D, int64_t(Hk) * D});
    }
    append(vs, a.v, a.v_stride, a.Dv, {int64_t(L) * Hk * a.Dv, a.Dv, int64_t(Hk) * a.Dv});
    a.k = (const char*)a.k + item() * call.first * a.k_stride[2];
    a.v = (const char*)a.v + item() * call.first * a.v_stride[2];
    a.out = room(Hq * a.Dv);
    a.sinks = sinks.read((float*)arena.take(sizeof(float) * sinks.size));
    kernels().attention(a);
    finish(o, after, a.out, x, y, h, arena);
  }

  // out = y + after(down(act(gate(norm(y))) * up(norm(y))))
  void feed(Arena& arena, const void* y) {
    void *h = arena.take(item() * M() * dim), *wide = arena.take(item() * M() * gate.N());
    before_mlp.present ? before_mlp.run(type, y, h, M(), arena) : (void)std::memcpy(h, y, item() * M() * dim);
    project_gated(gate, up, shape.mlp->act, rows(), h, wide, arena);
    finish(down, after_mlp, wide, y, out, h, arena);
  }

  // to = residual + norm(from by p); `spare` has room for a result.
  void finish(const Projection& p, const Norm& norm, const void* from, const void* residual, void* to, void* spare,
              Arena& arena) {
    if (!norm.present) return project_onto(p, rows(), from, residual, to);
    project_onto(p, rows(), from, nullptr, spare);
    norm.run(type, spare, spare, M(), arena);
    kernels().add(type, spare, residual, to, int64_t(M()) * dim);
  }

  void turn(const void* from, void* to, int heads) const {
    const AttentionShape& s = shape.attention;
    Angles wanted;
    wanted.half = s.rope_dims / 2, wanted.length = L, wanted.base = s.base, wanted.scale = 1;
    if (freqs) wanted.freqs.assign(freqs, freqs + wanted.half);
    if (offsets) wanted.offsets.assign(offsets, offsets + offset_count);
    else wanted.offsets = {call.offset};
    const Angles& angles = angles_for(std::move(wanted));
    const int D = s.head_dim;
    kernels().rope({type, from, to, {int64_t(L) * heads * D, D, int64_t(heads) * D, 1}, B, heads, L, D, s.rope_dims,
                    s.traditional, offset_count > 1, angles.cosine.data(), angles.sine.data()});
  }

  // Copies (B, Hk, L, size) with strides `from_stride` into the cache.
  void append(const void* from, const void* cache, const int64_t* stride, int size, std::array<int64_t, 3> from_stride) const {
    for (int b = 0; b < B; b++)
      for (int h = 0; h < shape.attention.kv_heads; h++)
        for (int l = 0; l < L; l++)
          std::memcpy((char*)cache + item() * (b * stride[0] + h * stride[1] + (call.start + l) * stride[2]),
                      (const char*)from + item() * (b * from_stride[0] + h * from_stride[1] + l * from_stride[2]),
                      item() * size);
  }
};

}  // namespace

Places::Places(const BlockShape& s, int at) {
  const auto place = [&](bool present, int count) {
    const int here = present ? at : -1;
    at += present ? count : 0;
    return here;
  };
  const AttentionShape& a = s.attention;
  before = place(s.before.has_value(), 1);
  q = place(true, a.q.arrays()), k = place(true, a.k.arrays()), v = place(true, a.v.arrays());
  q_norm = place(a.q_norm.has_value(), 1), k_norm = place(a.k_norm.has_value(), 1);
  sinks = place(a.sinks, 1), freqs = place(a.has_freqs, 1);
  o = place(true, a.o.arrays()), after = place(s.after.has_value(), 1);
  const FeedForwardShape none, &m = s.mlp ? *s.mlp : none;
  before_mlp = place(s.before_mlp.has_value(), 1);
  gate = place(s.mlp.has_value(), m.gate.arrays()), up = place(s.mlp.has_value(), m.up.arrays());
  down = place(s.mlp.has_value(), m.down.arrays());
  after_mlp = place(s.after_mlp.has_value(), 1);
  end = at;
}

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
    for (int i : {0, 1}) take_over(in[at_.end + i], out[1 + i], encoder);
    Run run{*shape_, call_, kernel_type(in[0].dtype()), in[0].shape(0), in[0].shape(1), in[0].shape(2)};
    run.x = row_major(in[0], encoder), run.out = out[0].data<void>();
    const auto norm = [&](const NormShape& s, int place) { return Norm(s, in, place, encoder); };
    const AttentionShape& a = shape_->attention;
    run.before = norm(shape_->before, at_.before), run.after = norm(shape_->after, at_.after);
    run.q_norm = norm(a.q_norm, at_.q_norm), run.k_norm = norm(a.k_norm, at_.k_norm);
    run.q = {a.q, in, at_.q, encoder}, run.k = {a.k, in, at_.k, encoder}, run.v = {a.v, in, at_.v, encoder};
    run.o = {a.o, in, at_.o, encoder};
    if (a.sinks) run.sinks = Vector(in[at_.sinks], encoder);
    if (a.has_freqs) run.freqs = (const float*)row_major(in[at_.freqs], encoder);
    if (shape_->mlp) {
      const FeedForwardShape& m = *shape_->mlp;
      run.before_mlp = norm(shape_->before_mlp, at_.before_mlp), run.after_mlp = norm(shape_->after_mlp, at_.after_mlp);
      run.gate = {m.gate, in, at_.gate, encoder}, run.up = {m.up, in, at_.up, encoder};
      run.down = {m.down, in, at_.down, encoder};
    }
    set_attention(run, in, out, encoder);
    encoder.dispatch(std::move(run));
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
  // The cache's buffer, written in place where nothing else refers to it.
  static void take_over(const mx::array& from, mx::array& to, mx::cpu::CommandEncoder& encoder) {
    if (from.is_donatable() && from.flags().row_contiguous) return to.copy_shared_buffer(from);
    allocate(to);
    const void* values = row_major(from, encoder);
    encoder.dispatch([values, out = to.data<void>(), bytes = to.nbytes()] { std::memcpy(out, values, bytes); });
  }

  void set_attention(Run& run, const std::vector<mx::array>& in, const std::vector<mx::array>& out,
                     mx::cpu::CommandEncoder& encoder) const {
    const AttentionShape& s = shape_->attention;
    Attention& a = run.attention;
    a.type = run.type, a.B = run.B, a.L = run.L, a.Hq = s.heads, a.Hk = s.kv_heads, a.D = s.head_dim;
    a.Dv = out[2].shape(3), a.S = call_.start + run.L - call_.first, a.scale = s.scale;
    a.k = out[1].data<void>(), a.v = out[2].data<void>();
    const int64_t capacity = out[1].shape(2);
    a.k_stride[0] = a.Hk * capacity * a.D, a.k_stride[1] = capacity * a.D, a.k_stride[2] = a.D;
    a.v_stride[0] = a.Hk * capacity * a.Dv, a.v_stride[1] = capacity * a.Dv, a.v_stride[2] = a.Dv;
    if (call_.causal && run.L > 1) a.mask.kind = Mask::causal;
    int next = at_.end + 2;
    if (call_.has_offsets) {
      run.offset_count = int(in[next].size());
      run.offsets = (const int32_t*)row_major(in[next++], encoder);
    }
    if (call_.has_mask) set_mask(a.mask, in[next]);
  }

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
    std::variant<std::monostate, std::string, mx::array> mask;
    if (call_.causal && x.shape(1) > 1) mask = std::string("causal");
    if (call_.has_mask) mask = in.back();
    mx::array y = op_attention(q, seen(keys), seen(values), s.scale, mask,
                               s.sinks ? MaybeArray(in[at_.sinks]) : std::nullopt);
    y = mx::flatten(mx::swapaxes(y, 1, 2), 2, 3);
    x = mx::add(x, norm(shape_->after, at_.after, s.o.plain(y, in, at_.o)));
    if (shape_->mlp) {
      const FeedForwardShape& m = *shape_->mlp;
      h = norm(shape_->before_mlp, at_.before_mlp, x);
      const auto gate = m.gate.plain(h, in, at_.gate), up = m.up.plain(h, in, at_.up);
      h = m.act == Gate::silu ? op_swiglu(gate, up) : op_geglu(gate, up);
      x = mx::add(x, norm(shape_->after_mlp, at_.after_mlp, m.down.plain(h, in, at_.down)));
    }
    return {x, keys, values};
  }

  mx::array turned(const mx::array& x, const std::vector<mx::array>& in) const {
    const AttentionShape& s = shape_->attention;
    if (!s.rope_dims) return x;
    std::variant<int, mx::array> offset = call_.offset;
    if (call_.has_offsets) offset = in[at_.end + 2];
    const MaybeArray freqs = s.has_freqs ? MaybeArray(in[at_.freqs]) : std::nullopt;
    return op_rope(x, s.rope_dims, s.traditional, s.has_freqs ? std::nullopt : std::optional<float>(s.base), 1.f, offset,
                   freqs);
  }

  std::shared_ptr<const BlockShape> shape_;
  BlockCall call_;
  Places at_;
};

bool fits_norm(const NormShape& s, const std::vector<mx::array>& in, int place, int size, mx::Dtype type) {
  return !s || (in[place].ndim() == 1 && in[place].shape(0) == size &&
                (in[place].dtype() == type || (type == mx::float32 && is_kernel_float(in[place].dtype()))));
}

bool fits_block(const BlockShape& s, const Places& at, const std::vector<mx::array>& in) {
  const AttentionShape& a = s.attention;
  const mx::array &x = in[0], &keys = in[at.end], &values = in[at.end + 1];
  const int dim = x.shape(-1), D = a.head_dim;
  const mx::Dtype type = x.dtype();
  if (keys.ndim() != 4 || values.ndim() != 4 || keys.dtype() != type || values.dtype() != type) return false;
  const int Dv = values.shape(3);
  bool fits = keys.shape(0) == x.shape(0) && keys.shape(1) == a.kv_heads && keys.shape(3) == D &&
              values.shape(0) == x.shape(0) && values.shape(1) == a.kv_heads && values.shape(2) == keys.shape(2);
  fits = fits && fits_norm(s.before, in, at.before, dim, type) && fits_norm(s.after, in, at.after, dim, type) &&
         fits_norm(a.q_norm, in, at.q_norm, D, type) && fits_norm(a.k_norm, in, at.k_norm, D, type);
  fits = fits && a.q.fits(in, at.q, dim, type, a.heads * D) && a.k.fits(in, at.k, dim, type, a.kv_heads * D) &&
         a.v.fits(in, at.v, dim, type, a.kv_heads * Dv) && a.o.fits(in, at.o, a.heads * Dv, type, dim);
  fits = fits && (!a.sinks || (in[at.sinks].ndim() == 1 && in[at.sinks].shape(0) == a.heads &&
                               is_kernel_float(in[at.sinks].dtype())));
  fits = fits && (!a.has_freqs || (in[at.freqs].dtype() == mx::float32 && int(in[at.freqs].size()) == a.rope_dims / 2));
  if (!fits || !s.mlp) return fits;
  const int hidden = in[at.gate].shape(0);
  return fits_norm(s.before_mlp, in, at.before_mlp, dim, type) && fits_norm(s.after_mlp, in, at.after_mlp, dim, type) &&
         s.mlp->gate.fits(in, at.gate, dim, type, 0) && s.mlp->up.fits(in, at.up, dim, type, hidden) &&
         s.mlp->down.fits(in, at.down, hidden, type, dim);
}

}  // namespace

std::optional<std::tuple<mx::array, mx::array, mx::array>> op_block(const std::shared_ptr<const BlockShape>& shape,
                                                                    const BlockArguments& a) {
  const Places at(*shape, 1);
  if (!on_cpu() || a.x.ndim() != 3 || a.x.size() == 0 || !is_kernel_float(a.x.dtype())) return std::nullopt;
  if (int(a.arrays.size()) + 1 != at.end) return std::nullopt;
  std::vector<mx::array> inputs;
  inputs.reserve(at.end + 4);
  inputs.push_back(a.x);
  inputs.insert(inputs.end(), a.arrays.begin(), a.arrays.end());
  inputs.push_back(a.keys);
  inputs.push_back(a.values);
  if (!fits_block(*shape, at, inputs)) return std::nullopt;
  const int B = a.x.shape(0), L = a.x.shape(1), seen = a.start + L - a.first;
  if (a.first < 0 || a.start < a.first || a.start + L > a.keys.shape(2)) return std::nullopt;
  BlockCall call{a.start, a.first, 0, false, false, false};
  if (const auto* offsets = std::get_if<mx::array>(&a.offset)) {
    const bool one = offsets->size() == 1, each = offsets->ndim() == 1 && offsets->shape(0) == B;
    if (!(one || each) || !mx::issubdtype(offsets->dtype(), mx::integer)) return std::nullopt;
    inputs.push_back(mx::astype(*offsets, mx::int32));
    call.has_offsets = true;
  } else {
    call.offset = std::get<int>(a.offset);
  }
  if (const auto* name = std::get_if<std::string>(&a.mask)) {
    if (*name != "causal") return std::nullopt;
    call.causal = true;
  } else if (const auto* mask = std::get_if<mx::array>(&a.mask)) {
    if (!fits_mask(*mask, {B, shape->attention.heads, L, seen})) return std::nullopt;
    inputs.push_back(*mask);
    call.has_mask = true;
  }
  auto out = mx::array::make_arrays({a.x.shape(), a.keys.shape(), a.values.shape()},
                                    {a.x.dtype(), a.x.dtype(), a.x.dtype()},
                                    std::make_shared<Block>(cpu_stream(), shape, call), inputs);
  return std::tuple(out[0], out[1], out[2]);
}

}  // namespace mlxlm
