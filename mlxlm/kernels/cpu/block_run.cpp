// Runs a decoder's block without a trip to MLX between its parts: for a few positions such trips cost more than the
// work, and for many they leave threads without any.
#include "block_run.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_map>

#include "angles.h"

namespace mlxlm {

Places::Places(const BlockShape& s, int at) {
  const auto place = [&](bool present, int count) {
    const int here = present ? at : -1;
    at += present ? count : 0;
    return here;
  };
  const AttentionShape& a = s.attention;
  const bool attends = s.mixer == Mixer::attention, recurs = s.mixer == Mixer::mamba;
  before = place(s.before.has_value(), 1);
  q = place(attends, a.q.arrays()), k = place(attends, a.k.arrays()), v = place(attends, a.v.arrays());
  q_norm = place(a.q_norm.has_value(), 1), k_norm = place(a.k_norm.has_value(), 1);
  sinks = place(a.sinks, 1), freqs = place(a.has_freqs, 1);
  o = place(attends, a.o.arrays());
  in = place(recurs, s.mamba.in.arrays()), conv = place(recurs, 1), conv_bias = place(s.mamba.conv_bias, 1);
  dt_bias = place(recurs, 1), a_log = place(recurs, 1), d = place(recurs, 1);
  gated_norm = place(s.mamba.normed, 1), out = place(recurs, s.mamba.out.arrays());
  after = place(s.after.has_value(), 1);
  const FeedForwardShape none, &m = s.mlp ? *s.mlp : none;
  before_mlp = place(s.before_mlp.has_value(), 1);
  gate = place(s.mlp && m.gated, m.gate.arrays()), up = place(s.mlp.has_value(), m.up.arrays());
  down = place(s.mlp.has_value(), m.down.arrays());
  router = place(s.experts.has_value(), s.experts ? s.experts->router.arrays() : 0);
  choice_bias = place(s.experts && s.experts->scored, 1);
  int of_experts = 0;
  if (s.experts) for (const LinearShape& linear : s.experts->linears) of_experts += linear.arrays();
  experts = place(s.experts.has_value(), of_experts);
  after_mlp = place(s.after_mlp.has_value(), 1);
  end = at;
}

Norm::Norm(const NormShape& s, const std::vector<mx::array>& in, int place, mx::cpu::CommandEncoder& encoder) {
  if (!s) return;
  weight = Vector(in[place], encoder);
  std::tie(eps, offset) = *s;
  present = true;
}

void Norm::run(Dtype type, const void* x, void* out, int64_t rows, Arena& arena) const {
  const float* w = weight.read((float*)arena.take(sizeof(float) * weight.size));
  if (offset != 0) {
    float* moved = (float*)arena.take(sizeof(float) * weight.size);
    for (int i = 0; i < weight.size; i++) moved[i] = w[i] + offset;
    w = moved;
  }
  kernels().rms_norm(type, x, w, eps, out, type, rows, weight.size);
}

BlockRun::BlockRun(const BlockShape& s, const Places& at, const std::vector<mx::array>& in,
                   mx::cpu::CommandEncoder& encoder)
    : shape(&s) {
  const auto norm = [&](const NormShape& n, int place) { return Norm(n, in, place, encoder); };
  const AttentionShape& a = s.attention;
  before = norm(s.before, at.before), after = norm(s.after, at.after);
  q_norm = norm(a.q_norm, at.q_norm), k_norm = norm(a.k_norm, at.k_norm);
  if (s.mixer == Mixer::attention) {
    q = {a.q, in, at.q, encoder}, k = {a.k, in, at.k, encoder}, v = {a.v, in, at.v, encoder};
    o = {a.o, in, at.o, encoder};
  }
  if (s.mixer == Mixer::mamba) mamba = {s.mamba, at, in, encoder};
  if (a.sinks) sinks = Vector(in[at.sinks], encoder);
  if (a.has_freqs) freqs = (const float*)row_major(in[at.freqs], encoder);
  before_mlp = norm(s.before_mlp, at.before_mlp), after_mlp = norm(s.after_mlp, at.after_mlp);
  if (s.experts) {
    router = {s.experts->router, in, at.router, encoder};
    if (s.experts->scored) choice_bias = Vector(in[at.choice_bias], encoder);
    experts = {s.experts->linears, s.experts->act, in, at.experts, encoder};
  }
  if (!s.mlp) return;
  if (s.mlp->gated) gate = {s.mlp->gate, in, at.gate, encoder};
  up = {s.mlp->up, in, at.up, encoder};
  down = {s.mlp->down, in, at.down, encoder};
}

void BlockRun::set_rows(const mx::array& like, const void* from, void* to) {
  type = kernel_type(like.dtype());
  B = like.shape(0), L = like.shape(1), dim = like.shape(2);
  x = from, out = to;
}

void BlockRun::set_cache(const BlockCall& c, mx::array& keys, mx::array& values) {
  call = c;
  const AttentionShape& s = shape->attention;
  Attention& a = attention;
  a.type = type, a.B = B, a.L = L, a.Hq = s.heads, a.Hk = s.kv_heads, a.D = s.head_dim, a.Dv = values.shape(3);
  a.S = call.start + L - call.first, a.scale = s.scale, a.cap = s.cap;
  a.k = keys.data<void>(), a.v = values.data<void>();
  const int64_t capacity = keys.shape(2);
  a.k_stride[0] = a.Hk * capacity * a.D, a.k_stride[1] = capacity * a.D, a.k_stride[2] = a.D;
  a.v_stride[0] = a.Hk * capacity * a.Dv, a.v_stride[1] = capacity * a.Dv, a.v_stride[2] = a.Dv;
  if (call.causal && L > 1) a.mask.kind = Mask::causal;
}

void BlockRun::set_memory(const BlockCall& c, Memory memory) {
  if (shape->mixer == Mixer::attention) return set_cache(c, memory[0], memory[1]);
  if (shape->mixer == Mixer::mamba) mamba.past = memory[0].data<void>(), mamba.state = memory[1].data<float>();
}

void BlockRun::set_offsets(const mx::array& given, mx::cpu::CommandEncoder& encoder) {
  offset_count = int(given.size());
  offsets = (const int32_t*)row_major(given, encoder);
}

// Rows that go through the MLP together: its width is the most that a block needs room for.
int BlockRun::fed_at_once() const {
  const int most = std::max(64, int((1 << 22) / up.N())), parts = (M() + most - 1) / most;
  return (M() + parts - 1) / parts;
}

size_t BlockRun::memory() {
  size_t bytes = 0;
  for (int n : {dim, dim, dim, q.N(), q.N(), q.N(), k.N(), k.N(), v.N(), mamba.out.K()})
    bytes += Arena::piece(item() * M() * n);
  if (shape->mlp)
    for (int n : {dim, gate.N(), up.N(), up.N()}) bytes += Arena::piece(item() * fed_at_once() * n);
  for (const Norm* n : {&before, &after, &before_mlp, &after_mlp, &q_norm, &k_norm}) bytes += n->bytes();
  for (const Projection* p : projections()) bytes += Arena::piece(sizeof(float) * p->bias.size);
  if (shape->experts) {
    const int k = shape->experts->route.k;
    bytes += experts.memory(type, k) + 2 * Arena::piece(sizeof(float) * M() * dim);
    bytes += 2 * Arena::piece(sizeof(float) * M() * router.N()) + 2 * Arena::piece(sizeof(float) * M() * k);
  }
  return bytes + mamba.memory(rows()) + Arena::piece(sizeof(float) * sinks.size) + 4096;
}

void BlockRun::operator()() {
  Arena arena(memory());
  for (Projection* p : projections()) read_bias(*p, arena);
  const void* between = x;
  if (shape->mixer != Mixer::none) {
    void* y = shape->feeds() ? arena.take(item() * M() * dim) : out;
    shape->mixer == Mixer::attention ? attend(arena, y) : recur(arena, y);
    between = y;
  }
  if (shape->experts) consult(arena, between);
  else if (shape->mlp) feed(arena, between);
}

// y = x + after(o(attention(before(x))))
void BlockRun::attend(Arena& arena, void* y) {
  const auto room = [&](int n) { return arena.take(item() * M() * n); };
  void *h = room(dim), *qs = room(q.N()), *ks = room(k.N()), *vs = room(v.N());
  before.present ? before.run(type, x, h, M(), arena) : (void)std::memcpy(h, x, item() * M() * dim);
  const Projection qkv[3] = {q, k, v};
  void* const to[3] = {qs, ks, vs};
  project_each(qkv, 3, rows(), h, to);
  const int D = shape->attention.head_dim, Hq = shape->attention.heads, Hk = shape->attention.kv_heads;
  if (q_norm.present) q_norm.run(type, qs, qs, int64_t(M()) * Hq, arena);
  if (k_norm.present) k_norm.run(type, ks, ks, int64_t(M()) * Hk, arena);
  Attention a = attention;
  a.q = qs;
  a.q_stride[0] = int64_t(L) * Hq * D, a.q_stride[1] = D, a.q_stride[2] = int64_t(Hq) * D;
  if (shape->attention.rope_dims) {
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
  finish(o, after, rows(), a.out, x, y, h, arena);
}

// y = x + after(out(mamba(before(x))))
void BlockRun::recur(Arena& arena, void* y) {
  void *h = arena.take(item() * M() * dim), *inner = arena.take(item() * M() * mamba.out.K());
  before.present ? before.run(type, x, h, M(), arena) : (void)std::memcpy(h, x, item() * M() * dim);
  mamba.run(h, inner, type, B, L, arena);
  finish(mamba.out, after, rows(), inner, x, y, h, arena);
}

// out = y + after(down(act(gate(norm(y))) * up(norm(y)))), or without a gate
void BlockRun::feed(Arena& arena, const void* y) {
  for (int m = 0, step = fed_at_once(); m < M(); m += step) {
    const size_t before = item() * m * dim;
    feed_some(arena, {type, std::min(step, M() - m), rows().prompt}, (const char*)y + before, (char*)out + before);
  }
}

void BlockRun::feed_some(Arena arena, Rows rows, const void* y, void* to) {
  void *h = arena.take(item() * rows.M * dim), *wide = arena.take(item() * rows.M * up.N());
  before_mlp.present ? before_mlp.run(type, y, h, rows.M, arena) : (void)std::memcpy(h, y, item() * rows.M * dim);
  open_up(rows, h, wide, arena);
  finish(down, after_mlp, rows, wide, y, to, h, arena);
}

// out = y + after(what the chosen experts make of norm(y), and the MLP beside them)
void BlockRun::consult(Arena& arena, const void* y) {
  const int k = shape->experts->route.k;
  void* h = arena.take(item() * M() * dim);
  before_mlp.present ? before_mlp.run(type, y, h, M(), arena) : (void)std::memcpy(h, y, item() * M() * dim);
  auto* picks = (uint32_t*)arena.take(sizeof(uint32_t) * M() * k);
  auto* share = (float*)arena.take(sizeof(float) * M() * k);
  choose(arena, h, picks, share);
  experts.run(rows(), h, k, picks, share, after_mlp.present ? nullptr : y, out, arena);
  if (shape->mlp) {
    void* wide = arena.take(item() * M() * up.N());
    open_up(rows(), h, wide, arena);
    project_onto(down, rows(), wide, out, out);
  }
  if (!after_mlp.present) return;
  after_mlp.run(type, out, out, M(), arena);
  kernels().add(type, out, y, out, int64_t(M()) * dim);
}

// Which experts each row of h goes to, and what each of them counts.
void BlockRun::choose(Arena& arena, const void* h, uint32_t* picks, float* share) {
  const ExpertsShape& s = *shape->experts;
  const int N = router.N();
  auto* logits = (float*)arena.take(sizeof(float) * M() * N);
  if (!s.scored) {
    project_onto(router, rows(), h, nullptr, logits);
    return route_rows(s.route, M(), N, type, logits, nullptr, picks, Dtype::f32, share);
  }
  auto* x = (float*)arena.take(sizeof(float) * M() * dim);
  kernels().to_f32(type, h, x, int64_t(M()) * dim);
  project_onto(router, {Dtype::f32, M()}, x, nullptr, logits);
  for (int i = 0; i < M() * N; i++) logits[i] = 1 / (1 + std::exp(-logits[i]));
  const float* bias = choice_bias.read((float*)arena.take(sizeof(float) * N));
  route_rows(s.route, M(), N, Dtype::f32, logits, bias, picks, Dtype::f32, share);
}

// wide = act(x by gate) * (x by up), or act(x by up)
void BlockRun::open_up(Rows rows, const void* x, void* wide, Arena& arena) const {
  if (shape->mlp->gated) return project_gated(gate, up, shape->mlp->act, rows, x, wide, arena);
  project_onto(up, rows, x, nullptr, wide);
  kernels().gated(rows.type, shape->mlp->act, wide, nullptr, wide, int64_t(rows.M) * up.N());
}

// to = residual + norm(from by p); `spare` has room for a result.
void BlockRun::finish(const Projection& p, const Norm& norm, Rows rows, const void* from, const void* residual, void* to,
                      void* spare, Arena& arena) {
  if (!norm.present) return project_onto(p, rows, from, residual, to);
  project_onto(p, rows, from, nullptr, spare);
  norm.run(type, spare, spare, rows.M, arena);
  kernels().add(type, spare, residual, to, int64_t(rows.M) * dim);
}

void BlockRun::turn(const void* from, void* to, int heads) const {
  const AttentionShape& s = shape->attention;
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
void BlockRun::append(const void* from, const void* cache, const int64_t* stride, int size, std::array<int64_t, 3> from_stride) const {
  const int Hk = shape->attention.kv_heads, each = 64, parts = (L + each - 1) / each;
  const auto copy = [&](int task) {
    const int b = task / parts / Hk, h = task / parts % Hk, begin = task % parts * each;
    for (int l = begin; l < std::min(L, begin + each); l++)
      std::memcpy((char*)cache + item() * (b * stride[0] + h * stride[1] + (call.start + l) * stride[2]),
                  (const char*)from + item() * (b * from_stride[0] + h * from_stride[1] + l * from_stride[2]),
                  item() * size);
  };
  if (parts == 1) for (int i = 0; i < B * Hk; i++) copy(i);  // not worth another thread
  else parallel_for(B * Hk * parts, copy);
}

// ------------------------------------------------------------------------------------------ the cache's buffers

namespace {

// Operations of ours that are under way, by the first buffer that they write.
struct Flights {
  std::mutex guard;
  std::unordered_map<const void*, std::shared_ptr<std::atomic<int>>> landed;
};
// Lives as long as the process, as an operation may end after static objects are gone.
Flights& flights() {
  static Flights* all = new Flights;
  return *all;
}

int64_t microseconds() {
  return std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

Buffers::Buffers(const mx::array& first)  {
  std::shared_ptr<std::atomic<int>> flight;
  {
    std::lock_guard lock(flights().guard);
    const auto found = flights().landed.find(first.data<void>());
    if (found == flights().landed.end()) return;
    flight = found->second;
  }
  flight->wait(0);
}

void Buffers::take(const mx::array& from, mx::array& to, mx::cpu::CommandEncoder& encoder) {
  if (!from.is_donatable()) settle(from, encoder);
  if (from.is_donatable() && from.flags().row_contiguous) return to.copy_shared_buffer(from);
  allocate(to);
  const void* values = row_major(from, encoder);
  encoder.dispatch([values, out = to.data<void>(), bytes = to.nbytes()] { std::memcpy(out, values, bytes); });
}

// MLX lets go of what an operation used some time after it, and at the latest when all that was asked for so far is done.
void Buffers::settle(const mx::array& from, mx::cpu::CommandEncoder& encoder) {
  if (!done_) {
    done_ = std::make_shared<std::atomic<int64_t>>(0);
    encoder.dispatch([done = done_] { done->store(microseconds()); });
  }
  while (!from.is_donatable()) {
    const int64_t done = done_->load();
    if (done && microseconds() > done + 100) return;
    std::this_thread::sleep_for(std::chrono::microseconds(20));
  }
}

std::function<void()> Buffers::leave(const mx::array& first) {
  const void* key = first.data<void>();
  auto flight = std::make_shared<std::atomic<int>>(0);
  {
    std::lock_guard lock(flights().guard);
    flights().landed[key] = flight;
  }
  return [key, flight] {
    {
      std::lock_guard lock(flights().guard);
      const auto found = flights().landed.find(key);
      if (found != flights().landed.end() && found->second == flight) flights().landed.erase(found);
    }
    flight->store(1);
    flight->notify_all();
  };
}

}  // namespace mlxlm
