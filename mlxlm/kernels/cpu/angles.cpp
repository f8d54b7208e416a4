// Computes rotary angles as MLX does, in f32.
#include "angles.h"

#include <cmath>
#include <utility>

namespace mlxlm {

bool Angles::same(const Angles& o) const {
  return half == o.half && length == o.length && base == o.base && scale == o.scale && freqs == o.freqs &&
         offsets == o.offsets;
}

void Angles::fill() {
  std::vector<float> inverse(half);
  for (int i = 0; i < half; i++)
    inverse[i] = freqs.empty() ? float(std::pow(double(base), -double(i) / half)) : 1.0f / freqs[i];
  cosine.resize(offsets.size() * length * half);
  sine.resize(cosine.size());
  float *c = cosine.data(), *s = sine.data();
  for (int32_t offset : offsets)
    for (int l = 0; l < length; l++)
      for (int i = 0; i < half; i++, c++, s++) {
        const float angle = float(offset + l) * scale * inverse[i];
        *c = std::cos(angle);
        *s = std::sin(angle);
      }
}

const Angles& angles_for(Angles&& wanted) {
  static thread_local Angles kept[4];
  static thread_local uint64_t clock = 0;
  Angles* oldest = &kept[0];
  for (Angles& a : kept) {
    if (a.used && a.same(wanted)) {
      a.used = ++clock;
      return a;
    }
    if (a.used < oldest->used) oldest = &a;
  }
  *oldest = std::move(wanted);
  oldest->fill();
  oldest->used = ++clock;
  return *oldest;
}

}  // namespace mlxlm
