// The cosines and sines of rotary positions, kept between calls: every layer of a model asks for the same.
#pragma once
#include <cstdint>
#include <vector>

namespace mlxlm {

struct Angles {
  int half = 0, length = 0;
  float base = 0, scale = 0;  // base is not looked at where there are freqs
  std::vector<float> freqs;
  std::vector<int32_t> offsets;
  std::vector<float> cosine, sine;  // (offsets, length, half)
  uint64_t used = 0;

  bool same(const Angles& o) const;
  void fill();
};

// The wanted angles, computed or found among the thread's last few.
const Angles& angles_for(Angles&& wanted);

}  // namespace mlxlm
