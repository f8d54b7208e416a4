// Batches of matrices that broadcast against each other: which block of each array a pair reads.
#pragma once
#include <functional>
#include <optional>
#include <vector>

#include "mlx/mlx.h"

namespace mlxlm {

namespace mx = mlx::core;

// All axes but the last two.
mx::Shape batch_of(const mx::array& a);
int64_t count_of(const mx::Shape& shape);

// The shape that two batches broadcast to, or nothing where they don't.
std::optional<mx::Shape> broadcast(const mx::Shape& a, const mx::Shape& b);

// For each of `pairs`, which block of an array with this batch it reads, counted in row-major order.
std::vector<int32_t> blocks_of(const mx::Shape& batch, const mx::Shape& pairs);

// Calls multiply(pair) for 0 .. count - 1: side by side where there are enough for all threads, else one after the
// other, each with all threads for itself.
void for_pairs(int64_t count, const std::function<void(int64_t)>& multiply);

}  // namespace mlxlm
