// What a machine can do at most: bytes read a second, multiply-adds of floats, and of pairs of bf16 numbers where it has
// an instruction for them, by as many threads as asked. Each is the best of several ways and runs.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif
#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
constexpr int W = 16, SUMS = 16;
#elif defined(__AVX__)
constexpr int W = 8, SUMS = 10;
#else
constexpr int W = 4, SUMS = 10;
#endif
typedef float V __attribute__((vector_size(4 * W)));
volatile float sink;

static double seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

template <class F>
static double best_seconds(int runs, int threads, F f) {
  double best = 1e9;
  for (int run = 0; run < runs; run++) {
    const double start = seconds();
    std::vector<std::thread> others;
    for (int t = 1; t < threads; t++) others.emplace_back(f, t);
    f(0);
    for (auto& t : others) t.join();
    const double taken = seconds() - start;
    if (taken < best) best = taken;
  }
  return best;
}

// Reads `streams` parts side by side, each straight on, asking for what is `early` bytes ahead unless that is 0.
template <int streams, int early>
static void read_all(const char* p, size_t bytes) {
  constexpr int lines = 4;
  const size_t part = bytes / streams, step = lines * sizeof(V);
  V sums[streams][lines] = {};
  for (size_t i = 0; i < part; i += step)
    for (int s = 0; s < streams; s++)
      for (int j = 0; j < lines; j++) {
        const char* at = p + s * part + i + j * sizeof(V);
        if constexpr (early > 0) __builtin_prefetch(at + early);
        sums[s][j] += *(const V*)at;
      }
  float total = 0;
  for (auto& stream : sums) for (V v : stream) total += v[0];
  sink = total;
}

// Far more than any cache; in large pages where the system has them.
static double read_rate(int threads) {
  const size_t unit = size_t(1) << 20, part = (size_t(2) << 30) / threads / unit * unit, all = part * threads;
  char* memory = (char*)std::aligned_alloc(size_t(2) << 20, all);
  if (!memory) return 0;
#if defined(MADV_HUGEPAGE)
  madvise(memory, all, MADV_HUGEPAGE);
#endif
  std::memset(memory, 0, all);
  double best = 1e9;
  const auto with = [&](auto read) {
    const double taken = best_seconds(3, threads, [&](int t) { read(memory + t * part, part); });
    if (taken < best) best = taken;
  };
  with(read_all<1, 0>), with(read_all<1, 1024>), with(read_all<2, 0>), with(read_all<4, 0>), with(read_all<4, 1024>);
  std::free(memory);
  return all / best;
}

// SUMS sums that depend on themselves alone, and start apart: a compiler that sees them equal keeps only one of them.
static void multiply(long rounds) {
  V sums[SUMS], x = V{} + 0.999f, y = V{} + 0.001f;
#pragma GCC unroll 16
  for (int i = 0; i < SUMS; i++) sums[i] = V{} + float(i);
  for (long r = 0; r < rounds; r++) {
#pragma GCC unroll 16
    for (int i = 0; i < SUMS; i++) sums[i] = sums[i] * x + y;
  }
#pragma GCC unroll 16
  for (int i = 0; i < SUMS; i++) sink = sums[i][0];
}

#if defined(__AVX512BF16__)
static void multiply_pairs(long rounds) {
  __m512 sums[SUMS];
  const __m512bh x = (__m512bh)_mm512_set1_epi32(0x3c003c00);
#pragma GCC unroll 16
  for (int i = 0; i < SUMS; i++) sums[i] = _mm512_set1_ps(float(i));
  for (long r = 0; r < rounds; r++) {
#pragma GCC unroll 16
    for (int i = 0; i < SUMS; i++) sums[i] = _mm512_dpbf16_ps(sums[i], x, x);
  }
#pragma GCC unroll 16
  for (int i = 0; i < SUMS; i++) sink = sums[i][0];
}
#endif

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 1;
  const long rounds = 5'000'000;
  const double each = 2.0 * SUMS * W * rounds * threads;
  std::printf("{\"read_gb_s\": %.1f", read_rate(threads) / 1e9);
  std::printf(", \"f32_gflop_s\": %.0f", each / best_seconds(6, threads, [&](int) { multiply(rounds); }) / 1e9);
#if defined(__AVX512BF16__)
  const double pairs = best_seconds(6, threads, [&](int) { multiply_pairs(rounds); });
  std::printf(", \"bf16_gflop_s\": %.0f", 2 * each / pairs / 1e9);
#endif
  std::printf("}\n");
}
