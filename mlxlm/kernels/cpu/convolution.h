// Convolutions of images: a channel by itself directly, channels together as a matmul of patches, some positions at a time.
#pragma once
#include <cstring>

#include "dense.h"
#include "recurrent.h"

namespace {

constexpr int PATCHES = 256;       // output positions whose patches are laid out at a time: bounds the scratch memory
constexpr int BAND = 512 * 1024;   // bytes of input, as f32, that one task of a convolution by channels reads

// The patches of output positions first .. first + count, one a row, of the channels of a group.
inline void lay_out_patches(const Convolution2d& c, int64_t first, int count, int group, char* out) {
  const size_t item = size_of(c.type);
  const int channels = c.C / c.groups, wide = c.kernel[1] * channels;
  const size_t pixel = item * c.C, row_bytes = item * wide * c.kernel[0];
  parallel_for((count + 15) / 16, [&](int task) {
    for (int i = task * 16; i < lesser(count, task * 16 + 16); i++) {
      const int64_t at = first + i;
      const int x = int(at % c.out[1]) * c.stride[1] - c.before[1];
      const int y = int(at / c.out[1] % c.out[0]) * c.stride[0] - c.before[0];
      const char* image = (const char*)c.x + at / c.out[1] / c.out[0] * c.in[0] * c.in[1] * pixel + item * channels * group;
      char* to = out + i * row_bytes;
      for (int ky = 0; ky < c.kernel[0]; ky++) {
        const int row = y + ky * c.dilation[0];
        for (int kx = 0; kx < c.kernel[1]; kx++, to += item * channels) {
          const int column = x + kx * c.dilation[1];
          const bool inside = row >= 0 && row < c.in[0] && column >= 0 && column < c.in[1];
          if (inside) std::memcpy(to, image + (size_t(row) * c.in[1] + column) * pixel, item * channels);
          else std::memset(to, 0, item * channels);
        }
      }
    }
  });
}

inline void convolve_by_patches(const Convolution2d& c) {
  const int64_t positions = int64_t(c.N) * c.out[0] * c.out[1];
  const int K = c.kernel[0] * c.kernel[1] * (c.C / c.groups), O = c.O / c.groups;
  const size_t item = size_of(c.type);
  for (int64_t first = 0; first < positions; first += PATCHES) {
    const int count = int(lesser(positions - first, int64_t(PATCHES)));
    char* patches = (char*)scratch(kOther, item * PATCHES * (K + O));
    char* result = patches + item * PATCHES * K;
    for (int g = 0; g < c.groups; g++) {
      lay_out_patches(c, first, count, g, patches);
      char* out = (char*)c.y + item * (first * c.O + g * O);
      const DenseMatrix w{(const char*)c.weight + size_of(c.weight_type) * g * O * K, c.weight_type, O, K, K};
      dense_matmul(w, {c.type, patches, c.groups == 1 ? out : result, c.bias ? c.bias + g * O : nullptr, count});
      if (c.groups == 1) continue;
      for (int i = 0; i < count; i++) std::memcpy(out + item * i * c.O, result + item * i * O, item * O);
    }
  }
}

// W output channels, from o on, of some output rows: the input rows that they need as f32, with their zeros around.
template <class T>
struct Band {
  const Convolution2d& c;
  int image, first, count, o;

  int width() const { return (c.out[1] - 1) * c.stride[1] + (c.kernel[1] - 1) * c.dilation[1] + 1; }
  int height() const { return (count - 1) * c.stride[0] + (c.kernel[0] - 1) * c.dilation[0] + 1; }
  int taps() const { return c.kernel[0] * c.kernel[1]; }

  void read(float* to) const {
    const int each = c.O / c.C, channel = o / each, lanes = lesser(W, c.C - channel);
    I index;
    for (int i = 0; i < W; i++) index[i] = lesser((o + i) / each - channel, lanes - 1);
    const T* x = (const T*)c.x + int64_t(image) * c.in[0] * c.in[1] * c.C + channel;
    for (int r = 0; r < height(); r++) {
      const int row = first * c.stride[0] - c.before[0] + r;
      for (int i = 0; i < width(); i++, to += W) {
        const int column = i - c.before[1];
        const bool inside = row >= 0 && row < c.in[0] && column >= 0 && column < c.in[1];
        const T* from = x + (int64_t(row) * c.in[1] + column) * c.C;
        store(to, !inside ? V{} : permute(lanes == W ? load(from) : load_n(from, lanes), index));
      }
    }
  }

  void read_weights(float* to) const {
    by_type(c.weight_type, [&]<class U>(U*) {
      for (int t = 0; t < taps(); t++)
        for (int i = 0; i < W; i++) to[t * W + i] = o + i < c.O ? value(((const U*)c.weight)[int64_t(o + i) * taps() + t]) : 0.f;
    });
  }

  template <int R>
  void positions(const float* x, const float* weight, V bias, int row, int column) const {
    V total[R];
    for (V& t : total) t = bias;
    for (int ky = 0; ky < c.kernel[0]; ky++)
      for (int kx = 0; kx < c.kernel[1]; kx++, weight += W) {
        const int64_t at = int64_t(row * c.stride[0] + ky * c.dilation[0]) * width() + column * c.stride[1] + kx * c.dilation[1];
        const V w = load(weight);
        UNROLL for (int r = 0; r < R; r++) total[r] = fma(w, load(x + (at + r * c.stride[1]) * W), total[r]);
      }
    T* out = (T*)c.y + ((int64_t(image) * c.out[0] + first + row) * c.out[1] + column) * c.O + o;
    for (int r = 0; r < R; r++, out += c.O) {
      if (c.O - o >= W) store(out, total[r]);
      else store_n(out, total[r], c.O - o);
    }
  }

  void run() const {
    constexpr int R = 8;
    const size_t size = size_t(height()) * width();
    float* x = (float*)scratch(kRows, sizeof(float) * W * (size + taps()));
    float* weight = x + size * W;
    read(x);
    read_weights(weight);
    const V bias = c.bias ? load_up_to(c.bias + o, c.O - o) : V{};
    for (int row = 0; row < count; row++) {
      int column = 0;
      for (; column + R <= c.out[1]; column += R) positions<R>(x, weight, bias, row, column);
      for (; column < c.out[1]; column++) positions<1>(x, weight, bias, row, column);
    }
  }
};

template <class T>
inline void convolve_by_channels(const Convolution2d& c) {
  const Band<T> one{c, 0, 0, 1, 0};
  const int room = int(BAND / (sizeof(float) * W * one.width())), more = (room - one.height()) / c.stride[0];
  const int rows = greater(1, lesser(c.out[0], 1 + more)), bands = (c.out[0] + rows - 1) / rows, blocks = (c.O + W - 1) / W;
  parallel_for(c.N * bands * blocks, [&](int task) {
    const int o = task % blocks * W, band = task / blocks % bands, image = task / blocks / bands;
    Band<T>{c, image, band * rows, lesser(rows, c.out[0] - band * rows), o}.run();
  });
}

void conv2d(const Convolution2d& c) {
  if (c.groups != c.C) return convolve_by_patches(c);
  by_type(c.type, [&]<class T>(T*) { convolve_by_channels<T>(c); });
}

}  // namespace
