// Rotary positions as an MLX operation.
#include "angles.h"
#include "ops.h"
#include "primitive.h"

namespace mlxlm {

namespace {

class Rotary : public Kernel {
 public:
  Rotary(mx::Stream s, int dims, bool traditional, float base, float scale, int offset, bool has_offset, bool has_freqs)
      : Kernel(s), dims_(dims), traditional_(traditional), base_(base), scale_(scale), offset_(offset),
        has_offset_(has_offset), has_freqs_(has_freqs) {}
  const char* name() const override { return "mlxlm.Rotary"; }

  mx::array plain(const std::vector<mx::array>& in) const override {
    const MaybeArray freqs = has_freqs_ ? MaybeArray(in.back()) : std::nullopt;
    const std::optional<float> base = has_freqs_ ? std::nullopt : std::optional<float>(base_);
    if (has_offset_) return mx::fast::rope(in[0], dims_, traditional_, base, scale_, in[1], freqs);
    return mx::fast::rope(in[0], dims_, traditional_, base, scale_, offset_, freqs);
  }

  void eval_cpu(const std::vector<mx::array>& in, mx::array& out) override {
    allocate(out);
    auto& encoder = mx::cpu::get_command_encoder(stream());
    const mx::array& x = in[0];
    const bool heads = x.ndim() == 4;
    Rope rope{kernel_type(x.dtype()), x.data<void>(), out.data<void>(),
                    {x.strides(0), heads ? x.strides(1) : 0, x.strides(-2), x.strides(-1)},
                    x.shape(0), heads ? x.shape(1) : 1, x.shape(-2), x.shape(-1), dims_, traditional_, false, nullptr,
                    nullptr};
    const int32_t* offsets = has_offset_ ? (const int32_t*)row_major(in[1], encoder) : nullptr;
    const int count = has_offset_ ? int(in[1].size()) : 1;
    const float* freqs = has_freqs_ ? (const float*)row_major(in.back(), encoder) : nullptr;
    encoder.dispatch([rope, offsets, count, freqs, offset = offset_, base = base_, scale = scale_]() mutable {
      Angles wanted;
      wanted.half = rope.dims / 2, wanted.length = rope.L, wanted.base = base, wanted.scale = scale;
      if (freqs) wanted.freqs.assign(freqs, freqs + wanted.half);
      if (offsets) wanted.offsets.assign(offsets, offsets + count);
      else wanted.offsets = {offset};
      const Angles& angles = angles_for(std::move(wanted));
      rope.per_row = count > 1;
      rope.cosine = angles.cosine.data(), rope.sine = angles.sine.data();
      kernels().rope(rope);
    });
  }

 private:
  int dims_;
  bool traditional_;
  float base_, scale_;
  int offset_;
  bool has_offset_, has_freqs_;
};

}  // namespace

mx::array op_rope(const mx::array& x, int dims, bool traditional, std::optional<float> base, float scale,
                  const std::variant<int, mx::array>& offset, const MaybeArray& freqs) {
  const mx::array* rows = std::get_if<mx::array>(&offset);
  if (freqs) base = std::nullopt;
  const bool fits = on_cpu() && is_kernel_float(x.dtype()) && (x.ndim() == 3 || x.ndim() == 4) && x.size() > 0 &&
                    dims > 0 && dims % 2 == 0 && dims <= x.shape(-1) && (base || freqs) &&
                    (!freqs || (freqs->ndim() == 1 && freqs->shape(0) == dims / 2)) &&
                    (!rows || ((rows->ndim() == 0 || (rows->ndim() == 1 && (rows->shape(0) == x.shape(0) || rows->size() == 1))) &&
                               mx::issubdtype(rows->dtype(), mx::integer)));
  if (!fits) {
    if (rows) return mx::fast::rope(x, dims, traditional, base, scale, *rows, freqs);
    return mx::fast::rope(x, dims, traditional, base, scale, std::get<int>(offset), freqs);
  }
  std::vector<mx::array> inputs{x};
  if (rows) inputs.push_back(mx::astype(*rows, mx::int32));
  if (freqs) inputs.push_back(mx::astype(*freqs, mx::float32));
  auto kernel = std::make_shared<Rotary>(cpu_stream(), dims, traditional, base.value_or(0), scale,
                                         rows ? 0 : std::get<int>(offset), rows != nullptr, freqs.has_value());
  return mx::array(x.shape(), x.dtype(), std::move(kernel), std::move(inputs));
}

}  // namespace mlxlm
