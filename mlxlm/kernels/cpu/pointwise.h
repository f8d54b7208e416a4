// What is not a matmul: norms, rotation, gates. Each reads and writes memory once.
#pragma once
#include "pool.h"
#include "simd.h"

namespace {

constexpr int64_t SMALL = 32768;  // elements below which a thread's start costs more than it saves

// body(begin, end) over 0 .. count, in parallel parts where there is work for them.
template <class F>
inline void in_parts(int64_t count, int64_t elements_each, F&& body) {
  if (count * elements_each < SMALL) return body(int64_t(0), count);
  const int parts = int(lesser(count, int64_t(4 * pool_size())));
  parallel_for(parts, [&](int i) { body(count * i / parts, count * (i + 1) / parts); });
}

template <class T, class O>
inline void rms_row(const T* x, const float* weight, float eps, O* out, int D) {
  V squares{};
  int i = 0;
  for (; i + W <= D; i += W) {
    V v = load(x + i);
    squares = fma(v, v, squares);
  }
  if (i < D) {
    V v = load_n(x + i, D - i);
    squares = fma(v, v, squares);
  }
  const float inverse = 1.f / __builtin_sqrtf(sum(squares) / float(D) + eps);
  for (i = 0; i + W <= D; i += W) {
    V v = load(x + i) * inverse;
    store(out + i, weight ? v * load(weight + i) : v);
  }
  for (; i < D; i++) put(out + i, value(x[i]) * inverse * (weight ? weight[i] : 1.f));
}

void rms_norm(Dtype type, const void* x, const float* weight, float eps, void* out, Dtype out_type, int64_t rows, int D) {
  by_type(type, [&]<class T>(T*) {
    by_type(out_type, [&]<class O>(O*) {
      in_parts(rows, D, [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; r++) rms_row((const T*)x + r * D, weight, eps, (O*)out + r * D, D);
      });
    });
  });
}

template <class T, class O>
inline void layer_norm_row(const T* x, const float* weight, const float* bias, float eps, O* out, int D) {
  float total = 0, squares = 0;
  V t{}, s{};
  int i = 0;
  for (; i + W <= D; i += W) t += load(x + i);
  for (total = sum(t); i < D; i++) total += value(x[i]);
  const float mean = total / float(D);
  for (i = 0; i + W <= D; i += W) {
    V v = load(x + i) - mean;
    s = fma(v, v, s);
  }
  for (squares = sum(s); i < D; i++) squares += (value(x[i]) - mean) * (value(x[i]) - mean);
  const float inverse = 1.f / __builtin_sqrtf(squares / float(D) + eps);
  for (i = 0; i + W <= D; i += W) {
    V v = (load(x + i) - mean) * inverse;
    if (weight) v *= load(weight + i);
    if (bias) v += load(bias + i);
    store(out + i, v);
  }
  for (; i < D; i++)
    put(out + i, (value(x[i]) - mean) * inverse * (weight ? weight[i] : 1.f) + (bias ? bias[i] : 0.f));
}

void layer_norm(Dtype type, const void* x, const float* weight, const float* bias, float eps, void* out, Dtype out_type,
                int64_t rows, int D) {
  by_type(type, [&]<class T>(T*) {
    by_type(out_type, [&]<class O>(O*) {
      in_parts(rows, D, [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; r++) layer_norm_row((const T*)x + r * D, weight, bias, eps, (O*)out + r * D, D);
      });
    });
  });
}

// The normal distribution's integral up to x, by the complementary error function of Numerical Recipes, section 6.2:
// a relative error of 1.2e-7.
inline V normal_integral(V x) {
  const V z = (x < 0.f ? -x : x) * 0.70710678118f, t = 1.f / fma(z, splat(0.5f), splat(1.f));
  V p = splat(0.17087277f);
  p = fma(p, t, splat(-0.82215223f));
  p = fma(p, t, splat(1.48851587f));
  p = fma(p, t, splat(-1.13520398f));
  p = fma(p, t, splat(0.27886807f));
  p = fma(p, t, splat(-0.18628806f));
  p = fma(p, t, splat(0.09678418f));
  p = fma(p, t, splat(0.37409196f));
  p = fma(p, t, splat(1.00002368f));
  p = fma(p, t, splat(-1.26551223f));
  const V half = 0.5f * t * vexp(fma(-z, z, p));
  return x < 0.f ? half : 1.f - half;
}

// But for two they are x sigmoid(t(x)): 1 + tanh(u) is 2 sigmoid(2 u).
inline V opened(V x, Gate gate) {
  if (gate == Gate::squared_relu) {
    const V open = x < 0.f ? V{} : x;  // NaN stays
    return open * open;
  }
  if (gate == Gate::gelu) return x * normal_integral(x);
  const V t = gate == Gate::silu         ? x
              : gate == Gate::quick_gelu ? 1.702f * x
                                         : x * fma(x * x, splat(0.0713548162726f), splat(1.59576912161f));
  return x / (vexp(-t) + 1.f);
}

void gated(Dtype type, Gate kind, const void* gate, const void* up, void* out, int64_t count) {
  by_type(type, [&]<class T>(T*) {
    const T *g = (const T*)gate, *u = (const T*)up;
    T* o = (T*)out;
    in_parts((count + W - 1) / W, 4 * W, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin * W; i < end * W; i += W) {
        const int left = int(lesser(count - i, int64_t(W)));
        V y = opened(left == W ? load(g + i) : load_n(g + i, left), kind);
        if (u) y *= left == W ? load(u + i) : load_n(u + i, left);
        if (left == W) store(o + i, y);
        else store_n(o + i, y, left);
      }
    });
  });
}

void squared_relu(Dtype type, void* x, int64_t count) {
  by_type(type, [&]<class T>(T*) {
    T* p = (T*)x;
    for (int64_t i = 0; i < count; i += W) {
      const int n = int(lesser(count - i, int64_t(W)));
      const V v = n == W ? load(p + i) : load_n(p + i, n), open = v < 0.f ? V{} : v;  // NaN stays
      if (n == W) store(p + i, open * open);
      else store_n(p + i, open * open, n);
    }
  });
}

void add(Dtype type, const void* a, const void* b, void* out, int64_t count) {
  by_type(type, [&]<class T>(T*) {
    in_parts(count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i += W) {
        const int left = int(lesser(end - i, int64_t(W)));
        if (left == W) store((T*)out + i, load((const T*)a + i) + load((const T*)b + i));
        else store_n((T*)out + i, load_n((const T*)a + i, left) + load_n((const T*)b + i, left), left);
      }
    });
  });
}

template <class T>
inline void rotate_row(const T* x, int64_t stride, T* out, const Rope& r, const float* cosine, const float* sine) {
  const int half = r.dims / 2, apart = r.traditional ? 1 : half, step = r.traditional ? 2 : 1;
  int i = 0;
  if (!r.traditional && stride == 1)
    for (; i + W <= half; i += W) {
      V a = load(x + i), b = load(x + half + i), c = load(cosine + i), s = load(sine + i);
      store(out + i, a * c - b * s);
      store(out + half + i, a * s + b * c);
    }
  for (; i < half; i++) {
    float a = value(x[i * step * stride]), b = value(x[(i * step + apart) * stride]);
    put(out + i * step, a * cosine[i] - b * sine[i]);
    put(out + i * step + apart, a * sine[i] + b * cosine[i]);
  }
  for (i = r.dims; i < r.D; i++) out[i] = x[i * stride];
}

void rope(const Rope& r) {
  by_type(r.type, [&]<class T>(T*) {
    in_parts(int64_t(r.B) * r.H * r.L, r.D, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; row++) {
        const int64_t l = row % r.L, h = row / r.L % r.H, b = row / r.L / r.H;
        const int64_t angle = ((r.per_row ? b : 0) * r.L + l) * (r.dims / 2);
        rotate_row((const T*)r.x + b * r.stride[0] + h * r.stride[1] + l * r.stride[2], r.stride[3],
                   (T*)r.out + row * r.D, r, r.cosine + angle, r.sine + angle);
      }
    });
  });
}

void to_f32(Dtype type, const void* x, float* out, int64_t count) {
  by_type(type, [&]<class T>(T*) {
    const T* from = (const T*)x;
    int64_t i = 0;
    for (; i + W <= count; i += W) store(out + i, load(from + i));
    for (; i < count; i++) out[i] = value(from[i]);
  });
}

// The place of the largest of x[begin .. end), which is kept for a stretch at a time and looked up in the end.
template <class T>
inline int largest_place(const T* x, int begin, int end) {
  constexpr int STRETCH = 16 * W;
  float best = -__builtin_inff();
  int from = begin;
  for (int at = begin; at < end; at += STRETCH) {
    const int stop = lesser(at + STRETCH, end);
    V top = splat(best);
    int i = at;
    for (; i + W <= stop; i += W) top = vmax(load(x + i), top);  // the second where the first is NaN
    float now = largest(top);
    for (; i < stop; i++) now = value(x[i]) > now ? value(x[i]) : now;
    if (now > best) best = now, from = at;
  }
  for (int i = from; i < end; i++)
    if (value(x[i]) == best) return i;
  return begin;
}

void argmax(Dtype type, const void* x, uint32_t* out, int64_t rows, int D) {
  by_type(type, [&]<class T>(T*) {
    const int parts = D < 2 * SMALL ? 1 : 2 * pool_size();
    int* places = (int*)scratch(kTile, sizeof(int) * rows * parts);
    in_parts(rows * parts, D / parts, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) {
        const int64_t part = i % parts;
        places[i] = largest_place((const T*)x + i / parts * D, int(D * part / parts), int(D * (part + 1) / parts));
      }
    });
    for (int64_t r = 0; r < rows; r++) {
      const T* row = (const T*)x + r * D;
      int best = places[r * parts];
      for (int p = 1; p < parts; p++) {
        const int other = places[r * parts + p];
        if (value(row[other]) > value(row[best]) || value(row[best]) != value(row[best])) best = other;
      }
      out[r] = uint32_t(best);
    }
  });
}

void from_f32(Dtype type, const float* x, void* out, int64_t count) {
  by_type(type, [&]<class T>(T*) {
    for (int64_t i = 0; i < count; i++) put((T*)out + i, x[i]);
  });
}

}  // namespace
