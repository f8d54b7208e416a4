// What a machine can do at most: bytes read a second, and f32 multiply-adds, by as many threads as asked.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#if defined(__AVX512F__)
constexpr int W = 16;
#elif defined(__AVX__)
constexpr int W = 8;
#else
constexpr int W = 4;
#endif
typedef float V __attribute__((vector_size(4 * W)));
volatile float sink;

static void read_all(const float* p, size_t count) {
  V sums[4] = {};
  for (size_t i = 0; i + 4 * W <= count; i += 4 * W)
    for (int j = 0; j < 4; j++) sums[j] += *(const V*)(p + i + j * W);
  sink = (sums[0] + sums[1] + sums[2] + sums[3])[0];
}

static void multiply(long rounds) {
  V a0{}, a1{}, a2{}, a3{}, a4{}, a5{}, a6{}, a7{}, a8{}, a9{}, x = V{} + 0.999f, y = V{} + 0.001f;
  for (long i = 0; i < rounds; i++) {
    a0 = a0 * x + y, a1 = a1 * x + y, a2 = a2 * x + y, a3 = a3 * x + y, a4 = a4 * x + y;
    a5 = a5 * x + y, a6 = a6 * x + y, a7 = a7 * x + y, a8 = a8 * x + y, a9 = a9 * x + y;
  }
  sink = (a0 + a1 + a2 + a3 + a4 + a5 + a6 + a7 + a8 + a9)[0];
}

template <class F>
static double best_seconds(int threads, F f) {
  double best = 1e9;
  for (int run = 0; run < 8; run++) {
    const auto start = std::chrono::steady_clock::now();
    std::vector<std::thread> others;
    for (int t = 1; t < threads; t++) others.emplace_back(f, t);
    f(0);
    for (auto& t : others) t.join();
    const double s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (s < best) best = s;
  }
  return best;
}

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 1;
  const size_t count = size_t(128) << 20, part = count / threads / 256 * 256;
  float* memory = (float*)std::aligned_alloc(4096, count * 4);
  std::memset(memory, 0, count * 4);
  const long rounds = 20'000'000;
  const double reading = best_seconds(threads, [&](int t) { read_all(memory + t * part, part); });
  const double work = best_seconds(threads, [&](int) { multiply(rounds); });
  std::printf("{\"read_gb_s\": %.1f, \"f32_gflop_s\": %.0f}\n", part * threads * 4 / reading / 1e9, 20.0 * W * rounds * threads / work / 1e9);
}
