// Runs a Mamba 2 mixer for a few positions, its two projections included, on the kernels' table.
#include "mamba_run.h"

#include <cmath>

namespace mlxlm {

MambaRun::MambaRun(const MambaShape& s, const Places& at, const std::vector<mx::array>& given,
                   mx::cpu::CommandEncoder& encoder)
    : in(s.in, given, at.in, encoder), out(s.out, given, at.out, encoder), shape_(&s) {
  const size_t C = s.channels(), H = s.heads;
  auto all = std::make_shared<std::vector<float>>(C * s.width + C + 3 * H + s.inner());
  float* next = all->data();
  const auto read = [&](int place, size_t count) {
    const mx::array& a = given[place];
    kernels().to_f32(kernel_type(a.dtype()), a.data<void>(), next, int64_t(count));
    return std::exchange(next, next + count);
  };
  std::vector<float> taps(C * s.width);
  kernels().to_f32(kernel_type(given[at.conv].dtype()), given[at.conv].data<void>(), taps.data(), int64_t(taps.size()));
  for (size_t c = 0; c < C; c++)
    for (int k = 0; k < s.width; k++) next[k * C + c] = taps[c * s.width + k];
  conv_ = std::exchange(next, next + C * s.width);
  if (s.conv_bias) conv_bias_ = read(at.conv_bias, C);
  dt_bias_ = read(at.dt_bias, H);
  float* a = read(at.a_log, H);
  for (size_t h = 0; h < H; h++) a[h] = -std::exp(a[h]);
  a_ = a, d_ = read(at.d, H);
  if (s.normed) norm_ = read(at.gated_norm, s.inner());
  constants_ = std::move(all);
}

size_t MambaRun::memory(Rows rows) const {
  if (!present()) return 0;
  const size_t floats = shape_->channels() + shape_->inner() + shape_->heads;
  return 4 * Arena::piece(rows.M * (size_of(rows.type) * in.N() + sizeof(float) * floats));
}

// dt = softplus of the last numbers of each row and their bias, within bounds; NaN stays.
void MambaRun::steps(const void* rows, Rows size, float* dt) const {
  const int H = shape_->heads, wide = in.N();
  for (int m = 0; m < size.M; m++, dt += H) {
    kernels().to_f32(size.type, (const char*)rows + size_of(size.type) * ((size_t(m) + 1) * wide - H), dt, H);
    for (int h = 0; h < H; h++) {
      const float x = dt[h] + dt_bias_[h], step = (x < 0 ? 0 : x) + std::log1p(std::exp(-std::fabs(x)));
      dt[h] = step < shape_->least ? shape_->least : step > shape_->most ? shape_->most : step;
    }
  }
}

void MambaRun::run(const void* x, void* y, Dtype type, int B, int L, Arena& arena) const {
  const MambaShape& s = *shape_;
  const Rows size{type, B * L, false};
  const auto floats = [&](int n) { return (float*)arena.take(sizeof(float) * size.M * n); };
  void* rows = arena.take(size_of(type) * size.M * in.N());
  project_onto(in, size, x, nullptr, rows);
  float* dt = floats(s.heads);
  steps(rows, size, dt);
  kernels().mamba_step({type, rows, past, state, conv_, conv_bias_, dt, a_, d_, norm_, s.eps, s.normed ? s.norm_groups : 0,
                        B, L, s.heads, s.head_dim, s.groups, s.state, s.width, floats(s.channels()),
                        floats(s.inner()), y});
}

bool has_numbers(const MambaShape& s, const Places& at, const std::vector<mx::array>& in) {
  const auto holds = [&](int place, const mx::Shape& shape) {
    return in[place].shape() == shape && is_kernel_float(in[place].dtype());
  };
  return s.width > 1 && s.groups > 0 && s.heads % s.groups == 0 && s.norm_groups > 0 && s.inner() % s.norm_groups == 0 &&
         holds(at.conv, {s.channels(), s.width, 1}) && (!s.conv_bias || holds(at.conv_bias, {s.channels()})) &&
         holds(at.dt_bias, {s.heads}) && holds(at.a_log, {s.heads}) && holds(at.d, {s.heads}) &&
         (!s.normed || holds(at.gated_norm, {s.inner()}));
}

bool fits_mamba(const MambaShape& s, const Places& at, const std::vector<mx::array>& in, mx::Dtype type, int dim) {
  const auto alike = [&](int place) { return place < 0 || in[place].dtype() == type || type == mx::float32; };
  return has_numbers(s, at, in) && alike(at.conv) && alike(at.conv_bias) && alike(at.gated_norm) &&
         s.in.fits(in, at.in, dim, type, s.inner() + s.channels() + s.heads) && s.out.fits(in, at.out, s.inner(), type, dim);
}

}  // namespace mlxlm
