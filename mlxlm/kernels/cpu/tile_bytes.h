// The matmul of many rows with activations in 8 bits: codes and activations are multiplied as integers, exactly, and a
// group's sum counts by the product of both scales.
//
// Each PIECE numbers of a row of activations x become integers q = round(x * 127 / largest |x|), ties to even, and stand
// for q * largest / 127; those all below 2^-100 for zeros. A row with an infinity or a NaN gives NaN throughout.
#pragma once
#include "tile_lanes.h"

#if MLXLM_LEVEL >= 2

namespace {

// ------------------------------------------------------------------------------------------------- products

constexpr int PIECE = 32;

// sum += the four unsigned bytes of each lane of w times the signed ones of x. Without an instruction for all of it bytes
// are summed by twos, in 16 bits that hold no more than 7 bits by 8: `wide` codes are taken in two parts.
#if MLXLM_LEVEL == 513
template <bool wide>
inline I add_products(I w, I x, I sum) { return (I)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)w, (__m512i)x); }
constexpr int BYTE_ROWS = 8;
#else
#if MLXLM_LEVEL == 512
inline I fours(I w, I x) {
  return (I)_mm512_madd_epi16(_mm512_maddubs_epi16((__m512i)w, (__m512i)x), _mm512_set1_epi16(1));
}
constexpr int BYTE_ROWS = 8;
#else
inline I fours(I w, I x) {
  return (I)_mm256_madd_epi16(_mm256_maddubs_epi16((__m256i)w, (__m256i)x), _mm256_set1_epi16(1));
}
constexpr int BYTE_ROWS = 4;
#endif
template <bool wide>
inline I add_products(I w, I x, I sum) {
  if constexpr (!wide) return sum + fours(w, x);
  else return sum + fours(w & 0x7f7f7f7f, x) + (fours((I)((U)w >> 7 & 0x01010101), x) << 7);
}
#endif

// Integers of 8 bits as such. Packing works within quarters (or halves), four numbers of which stay together.
#if MLXLM_LEVEL >= 512
inline __m256i as_bytes(const I* v) {
  const __m512i twos = _mm512_packs_epi32((__m512i)v[0], (__m512i)v[1]);
  return _mm256_permutevar8x32_epi32(_mm512_cvtepi16_epi8(twos), _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7));
}
#else
inline __m256i as_bytes(const I* v) {
  const __m256i low = _mm256_packs_epi32((__m256i)v[0], (__m256i)v[1]);
  const __m256i high = _mm256_packs_epi32((__m256i)v[2], (__m256i)v[3]);
  return _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}
#endif

inline int sum_of(__m256i bytes) {
  const __m256i sums = _mm256_sad_epu8(_mm256_xor_si256(bytes, _mm256_set1_epi8(-128)), _mm256_setzero_si256());
  const __m128i two = _mm_add_epi64(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
  return _mm_cvtsi128_si32(_mm_add_epi64(two, _mm_unpackhi_epi64(two, two))) - 128 * PIECE;
}

inline I four_bytes(const int8_t* p) {
  int32_t word;
  __builtin_memcpy(&word, p, 4);
  return word - I{};
}

// ---------------------------------------------------------------------------------------------------- codes

// Codes as unsigned bytes, four to a lane. Those that lie in bytes come a word at a time, from place j of each byte; the
// others are unpacked as numbers first. fp4 becomes twice its numbers plus 12.
template <Format format, int bits>
struct Bytes {
  static constexpr bool fits = format != Format::fp8;
  static constexpr bool late = format != Format::affine || 8 % bits != 0, wide = bits == 8;
  using C = ::Codes<format, bits>;
  static constexpr int per = late ? C::per : 32 / bits, vectors = per / 4;
  static constexpr int block = per * W, block_bytes = block * bits / 8;
  struct None {};
  static None table() { return {}; }

  static inline void unpack(U word, None, U* out) {
    constexpr uint32_t mask = ((1 << bits) - 1) * 0x01010101u;
    UNROLL for (int j = 0; j < vectors; j++) out[j] = word >> (bits * j) & mask;
  }
  static inline void unpack(const uint8_t* p, int words, None, U* out) {
    V codes[C::per];
    if (words == W) C::unpack(p, codes);
    else C::unpack(p, words, codes);
    UNROLL for (int j = 0; j < vectors; j++) {
      U lanes{};
      UNROLL for (int i = 0; i < 4; i++) {
        const V code = format == Format::fp4 ? codes[4 * j + i] * 2.f + 12.f : codes[4 * j + i];
        lanes |= (U)__builtin_convertvector(code, I) << (8 * i);
      }
      out[j] = lanes;
    }
  }
  // Those of fp4's numbers as bytes.
  static void give_biases(float* scales, float* biases, int count) {
    for (int i = 0; i < count; i++) scales[i] *= 0.5f, biases[i] = -12 * scales[i];
  }

  // Which of sixteen values next to each other stands at each place of four lanes, twice.
  struct Order {
    alignas(32) uint8_t at[32];
    constexpr Order() : at() {
      for (int i = 0; i < 32; i++) at[i] = uint8_t(late ? i % 16 : i % 16 / per * per + i % per / 4 + i % 4 * vectors);
    }
  };
  static constexpr Order order{};
};

// ---------------------------------------------------------------------------------------------- activations

// What the integers of a piece count; and at the last piece of a group of weights the sum of what all of the group's
// stand for, by which biases count.
struct ByteCounts {
  float scale, sum;
};

// M rows of activations as bytes. BYTE_ROWS rows lie together, a piece of each at a time, and so does what these count;
// there are rows of zeros up to `padded`.
struct ByteRows {
  ByteCounts* counts;
  int8_t* values;
  int M, K;

  static size_t bytes(int padded, const QuantizedMatrix& w) {
    return size_t(padded) * (w.K + w.K / PIECE * sizeof(ByteCounts)) + 64;
  }
  ByteRows(void* memory, int M, int padded, const QuantizedMatrix& w)
      : counts((ByteCounts*)memory), values((int8_t*)(counts + size_t(padded) * (w.K / PIECE))), M(M), K(w.K) {}

  // Those of rows m on, the first of BYTE_ROWS, from value k of each on.
  int8_t* values_at(int m, int k) const { return values + size_t(m) * K + size_t(k) * BYTE_ROWS; }
  ByteCounts* counts_at(int m, int k) const { return counts + (size_t(m) * K + size_t(k) * BYTE_ROWS) / PIECE; }

  void fill(Dtype type, const void* from, int m, const uint8_t* order, int group) const {
    const int r = m % BYTE_ROWS;
    if (m >= M) return clear(m - r, r);
    by_type(type, [&]<class T>(T*) {
      const T* x = (const T*)from + size_t(m) * K;
      bool finite = true;
      for (int k = 0; k < K; k += PIECE * W)
        finite &= fill_pieces(x + k, lesser(W, (K - k) / PIECE), order, values_at(m - r, k) + r * PIECE,
                              counts_at(m - r, k) + r);
      ByteCounts* count = counts_at(m - r, 0) + r;
      float sum = 0;
      for (int k = 0; k < K; k += PIECE, count += BYTE_ROWS) {
        sum = k % group ? sum + count->sum : count->sum;
        *count = finite ? ByteCounts{count->scale, sum} : ByteCounts{__builtin_nanf(""), __builtin_nanf("")};
      }
    });
  }
  void clear(int m, int r) const {
    for (int k = 0; k < K; k += PIECE) {
      __builtin_memset(values_at(m, k) + r * PIECE, 0, PIECE);
      counts_at(m, k)[r] = {};
    }
  }

  // Up to W pieces of a row, step by step for all of them; whether all values are finite.
  template <class T>
  static inline bool fill_pieces(const T* x, int count, const uint8_t* order, int8_t* out, ByteCounts* counts) {
    alignas(64) float most[W] = {}, factor[W], step[W];
    V lost{};
    for (int i = 0; i < count; i++) {
      V top{};
      UNROLL for (int k = 0; k < PIECE; k += W) {
        const V v = load(x + i * PIECE + k);
        top = vmax((V)((U)v & 0x7fffffff), top);
        lost += v * 0.f;
      }
      most[i] = largest(top);
    }
    const V all = load(most);
    store(step, all < 0x1p-100f ? V{} : all / 127.f);
    store(factor, all < 0x1p-100f ? V{} : 127.f / all);
    const __m256i places = _mm256_load_si256((const __m256i*)order);
    for (int i = 0; i < count; i++, out += PIECE * BYTE_ROWS, counts += BYTE_ROWS) {
      I v[PIECE / W];
      UNROLL for (int j = 0; j < PIECE / W; j++) {
        const float shifter = 12582912.f;  // 1.5 * 2^23: adding it rounds to an integer, in the low bits
        v[j] = (I)fma(load(x + i * PIECE + j * W), splat(factor[i]), splat(shifter)) - 0x4b400000;
      }
      const __m256i bytes = as_bytes(v);
      _mm256_storeu_si256((__m256i*)out, _mm256_shuffle_epi8(bytes, places));
      *counts = {step[i], step[i] * float(sum_of(bytes))};
    }
    return sum(lost) == 0;
  }
};

// R rows of activations by `count` groups of `pieces` pieces, from weights, scales, biases and activations that lie as a
// tile and ByteRows have them: kept[r][..] += what they give, or = where `first`.
template <int R, int pieces, bool wide>
inline void multiply_bytes(const uint32_t* weight, const float* scales, const float* biases, const int8_t* row,
                           const ByteCounts* by, int count, bool first, float* kept) {
  for (int g = 0; g < count; g++, first = false) {
    V part[R][2];
    UNROLL for (int piece = 0; piece < pieces; piece++, row += PIECE * BYTE_ROWS, by += BYTE_ROWS) {
      I acc[R][2] = {};
      UNROLL for (int u = 0; u < PIECE / 4; u++, weight += COLUMNS) {
        const I low = (I)load((const float*)weight), high = (I)load((const float*)weight + W);
        UNROLL for (int r = 0; r < R; r++) {
          const I one = four_bytes(row + r * PIECE + 4 * u);
          acc[r][0] = add_products<wide>(low, one, acc[r][0]);
          acc[r][1] = add_products<wide>(high, one, acc[r][1]);
        }
      }
      UNROLL for (int r = 0; r < R; r++)
        UNROLL for (int c = 0; c < 2; c++) {
          const V now = __builtin_convertvector(acc[r][c], V), scale = splat(by[r].scale);
          part[r][c] = piece ? fma(now, scale, part[r][c]) : now * scale;
        }
    }
    UNROLL for (int c = 0; c < 2; c++) {
      const V scale = load(scales + g * COLUMNS + c * W), bias = load(biases + g * COLUMNS + c * W);
      UNROLL for (int r = 0; r < R; r++) {
        float* to = kept + r * COLUMNS + c * W;
        const V total = fma(part[r][c], scale, first ? V{} : load(to));
        store(to, fma(bias, splat(by[r - BYTE_ROWS].sum), total));
      }
    }
  }
}

template <class B>
struct ByteTiles {
  using Codes = B;
  struct Rows : ByteRows {
    using ByteRows::ByteRows;
    void fill(Dtype type, const void* from, int m, const QuantizedMatrix& w) const {
      ByteRows::fill(type, from, m, B::order.at, w.group);
    }
  };
  static constexpr int at_once = BYTE_ROWS, depth = 4096, cached = 1 << 19;

  template <int R>
  static inline void multiply(const QuantizedMatrix& w, const LaneTile<B>& t, const Rows& x, int m, int first, int count,
                              float* kept) {
    const int k = first * w.group;
    const auto run = w.group == 32 ? multiply_bytes<R, 1, B::wide> : w.group == 64 ? multiply_bytes<R, 2, B::wide>
                                                                                  : multiply_bytes<R, 4, B::wide>;
    run(t.lanes, t.scales, t.biases, x.values_at(m, k), x.counts_at(m, k), count, first == 0, kept);
  }
};

}  // namespace
#endif
