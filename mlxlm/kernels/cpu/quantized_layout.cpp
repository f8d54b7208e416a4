// Reads the modes of quantization: which arrays, dtypes and sizes go together.
#include "quantized_layout.h"

namespace mlxlm {

Layout layout_of(const mx::array& w, const mx::array& scales, const MaybeArray& biases, std::optional<int> group,
                 std::optional<int> bits, const std::string& mode, size_t ndim) {
  Layout l;
  if (w.dtype() != mx::uint32 || w.ndim() != ndim || scales.ndim() != ndim) return l;
  for (int i = 0; i + 1 < int(ndim); i++) if (w.shape(i) != scales.shape(i)) return l;
  if (mode == "affine") {
    l.group = group.value_or(64), l.bits = bits.value_or(4);
    if (!biases || biases->shape() != scales.shape() || biases->dtype() != scales.dtype()) return l;
    if (!is_kernel_float(scales.dtype())) return l;
    if (l.group != 32 && l.group != 64 && l.group != 128) return l;
    if (l.bits < 2 || l.bits > 8 || l.bits == 7) return l;
    l.scale_type = ScaleType(int(kernel_type(scales.dtype())));
  } else {
    const bool fp8 = mode == "mxfp8", nv = mode == "nvfp4";
    if (biases || scales.dtype() != mx::uint8 || !(fp8 || nv || mode == "mxfp4")) return l;
    l.group = group.value_or(nv ? 16 : 32), l.bits = bits.value_or(fp8 ? 8 : 4);
    if (l.group != (nv ? 16 : 32) || l.bits != (fp8 ? 8 : 4)) return l;
    l.format = fp8 ? Format::fp8 : Format::fp4;
    l.scale_type = nv ? ScaleType::e4m3 : ScaleType::e8m0;
  }
  l.valid = int64_t(w.shape(-1)) * 32 == int64_t(scales.shape(-1)) * l.group * l.bits && w.size() > 0;
  return l;
}

std::string Layout::mode() const {
  if (affine()) return "affine";
  return format == Format::fp8 ? "mxfp8" : group == 16 ? "nvfp4" : "mxfp4";
}

QuantizedMatrix matrix_of(const Layout& l, const std::vector<mx::array>& inputs, int first,
                          mx::cpu::CommandEncoder& encoder) {
  const mx::array &w = inputs[first], &scales = inputs[first + 1];
  return {(const uint8_t*)row_major(w, encoder),
          row_major(scales, encoder),
          l.affine() ? row_major(inputs[first + 2], encoder) : nullptr,
          l.scale_type,
          l.format,
          l.bits,
          l.group,
          int(w.shape(-2)),
          int(scales.shape(-1)) * l.group};
}

}  // namespace mlxlm
