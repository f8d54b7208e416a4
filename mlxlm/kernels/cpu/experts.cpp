// Brings the rows of each expert together, in place where they already are, and the results back.
#include "experts.h"

#include <cstring>
#include <vector>

#include "pool.h"

namespace mlxlm {

namespace {

// The pairs sorted by expert, each expert's in their order: expert e has order[start[e]] .. order[start[e + 1] - 1].
struct ByExpert {
  std::vector<int64_t> start, order;

  explicit ByExpert(const ExpertRows& e) : start(e.experts + 1), order(e.count) {
    for (int64_t i = 0; i < e.count; i++) start[expert(e, i) + 1]++;
    for (int k = 0; k < e.experts; k++) start[k + 1] += start[k];
    std::vector<int64_t> next(start.begin(), start.end() - 1);
    for (int64_t i = 0; i < e.count; i++) order[next[expert(e, i)]++] = i;
  }

  // An index out of range must not read past the stack.
  static int expert(const ExpertRows& e, int64_t i) {
    return e.which[i] < uint32_t(e.experts) ? int(e.which[i]) : e.experts - 1;
  }
};

}  // namespace

void run_experts(const ExpertRows& e, const std::function<void(int, const MatmulRows&)>& multiply) {
  const ByExpert by(e);
  const size_t item = size_of(e.type), in_block = item * e.M * e.K, out_block = item * e.M * e.N;
  const char* x = (const char*)e.x;
  char* out = (char*)e.out;
  for (int expert = 0; expert < e.experts; expert++) {
    const int64_t begin = by.start[expert], count = by.start[expert + 1] - begin;
    if (count == 0) continue;
    const int64_t* pairs = by.order.data() + begin;
    bool in_place = true, out_place = true;
    for (int64_t i = 1; i < count; i++) {
      in_place = in_place && e.from[pairs[i]] == e.from[pairs[0]] + i;
      out_place = out_place && pairs[i] == pairs[0] + i;
    }
    char* buffer = (char*)scratch(kOther, count * (in_block + out_block) + 64);
    char* results = buffer + (count * in_block + 63) / 64 * 64;
    if (!in_place)
      for (int64_t i = 0; i < count; i++) std::memcpy(buffer + i * in_block, x + e.from[pairs[i]] * in_block, in_block);
    multiply(expert, {e.type, in_place ? x + e.from[pairs[0]] * in_block : buffer,
                      out_place ? out + pairs[0] * out_block : results, nullptr, int(count * e.M)});
    if (!out_place)
      for (int64_t i = 0; i < count; i++) std::memcpy(out + pairs[i] * out_block, results + i * out_block, out_block);
  }
}

}  // namespace mlxlm
