// Broadcasting of batches, and how their pairs are shared out over the threads.
#include "batches.h"

#include "pool.h"

namespace mlxlm {

mx::Shape batch_of(const mx::array& a) { return mx::Shape(a.shape().begin(), a.shape().end() - 2); }

int64_t count_of(const mx::Shape& shape) {
  int64_t count = 1;
  for (int n : shape) count *= n;
  return count;
}

std::optional<mx::Shape> broadcast(const mx::Shape& a, const mx::Shape& b) {
  const mx::Shape &longer = a.size() >= b.size() ? a : b, &shorter = a.size() >= b.size() ? b : a;
  mx::Shape out = longer;
  const size_t missing = longer.size() - shorter.size();
  for (size_t i = 0; i < shorter.size(); i++) {
    const int n = longer[i + missing], m = shorter[i];
    if (n != m && n != 1 && m != 1) return std::nullopt;
    out[i + missing] = n == 1 ? m : n;
  }
  return out;
}

std::vector<int32_t> blocks_of(const mx::Shape& batch, const mx::Shape& pairs) {
  const int64_t count = count_of(pairs);
  std::vector<int32_t> from(count);
  const int missing = int(pairs.size() - batch.size());
  for (int64_t i = 0; i < count; i++) {
    int64_t rest = i, block = 0, step = 1;
    for (int axis = int(pairs.size()) - 1; axis >= 0; axis--) {
      const int64_t at = rest % pairs[axis];
      rest /= pairs[axis];
      if (axis < missing) continue;
      if (batch[axis - missing] != 1) block += at * step;
      step *= batch[axis - missing];
    }
    from[i] = int32_t(block);
  }
  return from;
}

void for_pairs(int64_t count, const std::function<void(int64_t)>& multiply) {
  if (count >= 2 * pool_size()) return parallel_for(int(count), [&](int i) { multiply(i); });
  for (int64_t i = 0; i < count; i++) multiply(i);
}

}  // namespace mlxlm
