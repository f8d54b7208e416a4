// Codes as pairs of bf16 numbers, for the instruction that multiplies pairs: exact for codes of up to eight bits.
//
// A value of the activations is one bf16 number where it was one, else the sum of two, which keep 16 of its bits.
#pragma once
#include "codes.h"

#if MLXLM_LEVEL == 513

namespace {

typedef uint16_t P __attribute__((vector_size(64)));  // two bf16 numbers for each lane

inline V multiply_pairs(P a, P b, V sum) { return (V)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b); }
inline P load_pairs(const bf16* p) { return (P)_mm512_loadu_si512(p); }

// Integers of 2 to 6 bits, or fp4. Lane i of vector j holds the weights `per` i + j and `per` i + `per` / 2 + j, so that a
// lane stays within a group. A block is 64 bytes; where codes lie across bytes it is 64 codes.
template <Format format, int bits>
struct Pairs {
  static constexpr bool fits = bits <= 6, across = 8 % bits != 0, wide = bits >= 4;
  static constexpr int per = across ? 4 : 32 / bits, vectors = per / 2;
  static constexpr int block = per * W, block_bytes = block * bits / 8;

  struct Table {
    alignas(64) uint16_t number[64];
    constexpr Table() : number() {
      constexpr float halves[8] = {0, 1, 2, 3, 4, 6, 8, 12};
      for (int i = 0; i < 64; i++) {
        const int code = i & ((1 << bits) - 1);
        const float x = format == Format::affine ? float(code) : (code & 8 ? -.5f : .5f) * halves[code & 7];
        number[i] = uint16_t(__builtin_bit_cast(uint32_t, x) >> 16);
      }
    }
  };
  static constexpr Table numbers{};
  static inline P table() { return (P)_mm512_load_si512(numbers.number); }

  // The look-up takes five bits of the index, or six; the table repeats, so that the others needn't be masked.
  static inline P number_of(__m512i index, P table) {
    if constexpr (bits == 6)
      return (P)_mm512_permutex2var_epi16((__m512i)table, index, _mm512_load_si512(numbers.number + 32));
    else return (P)_mm512_permutexvar_epi16(index, (__m512i)table);
  }
  template <int j>
  static inline P one(__m512i word, P table) {
    return number_of(j ? _mm512_srli_epi16(word, bits * j) : word, table);
  }

  // Eight codes that lie across bytes go to a quadword, and from there to words whose lowest bits they are.
  struct Spread {
    alignas(64) uint8_t byte[64];
    constexpr Spread() : byte() {
      for (int i = 0; i < 64; i++) byte[i] = uint8_t(i / 8 * bits + (i % 8 < bits ? i % 8 : 0));
    }
  };
  static constexpr Spread spread{};
  static constexpr long long shifts(int j) {
    long long all = 0;
    for (int word = 0; word < 4; word++) all |= (long long)(bits * (2 * word + j)) << 16 * word;
    return all;
  }

  static inline void unpack(__m512i word, P table, P* out) {
    if constexpr (across) {
      const __m512i eights = _mm512_permutexvar_epi8(_mm512_load_si512(spread.byte), word);
      out[0] = number_of(_mm512_multishift_epi64_epi8(_mm512_set1_epi64(shifts(0)), eights), table);
      out[1] = number_of(_mm512_multishift_epi64_epi8(_mm512_set1_epi64(shifts(1)), eights), table);
      return;
    }
    out[0] = one<0>(word, table);
    out[1] = one<1>(word, table);
    if constexpr (vectors >= 4) {
      out[2] = one<2>(word, table);
      out[3] = one<3>(word, table);
    }
    if constexpr (vectors == 8) {
      out[4] = one<4>(word, table);
      out[5] = one<5>(word, table);
      out[6] = one<6>(word, table);
      out[7] = one<7>(word, table);
    }
  }
  static inline __m512i words(const uint8_t* p) { return words(p, W); }
  static inline __m512i words(const uint8_t* p, int lanes) {
    if constexpr (across) return _mm512_maskz_loadu_epi8((1ull << lanes * bits / 2) - 1, p);
    else return lanes == W ? _mm512_loadu_si512(p) : _mm512_maskz_loadu_epi32(first_lanes(lanes), p);
  }

  // Where value k of a row stands among the pairs' numbers of its vectors.
  static inline int place_of(int k) {
    const int lane = k % block / per, within = k % per;
    return k / block * block + (within % vectors) * 2 * W + 2 * lane + within / vectors;
  }
};

// The nearest bf16 number, and what it leaves; an infinity or a NaN leaves nothing.
inline void split(V x, bf16* high, bf16* low) {
  store(high, x);
  const V rest = x - load(high);
  store(low, rest - rest == 0 ? rest : V{});
}

// K values as bf16 numbers, in order; `low` only for `parts` == 2.
template <int parts, class T>
inline void to_bf16(const T* x, int K, bf16* high, bf16* low) {
  for (int k = 0; k < K; k += W) {
    const int n = lesser(W, K - k);
    const V v = n == W ? load(x + k) : load_n(x + k, n);
    bf16 h[W], l[W];
    if constexpr (parts == 2) split(v, h, l);
    else store(h, v);
    __builtin_memcpy(high + k, h, sizeof(bf16) * n);
    if constexpr (parts == 2) __builtin_memcpy(low + k, l, sizeof(bf16) * n);
  }
}

}  // namespace
#endif
