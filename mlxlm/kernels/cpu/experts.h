// Matmul with experts: each row of x goes to the matrix that its index names. See run_experts.
#pragma once
#include <cstdint>
#include <functional>

#include "types.h"

namespace mlxlm {

// `count` pairs: blocks of M rows, block from[i] of x (blocks of (M, K)), by expert which[i], to block i of out.
struct ExpertRows {
  Dtype type;
  const void* x;
  void* out;
  const int32_t* from;
  const uint32_t* which;
  int64_t count;
  int M, K, N, experts;
};

// Calls multiply(expert, rows) once for each expert that is named, with all of its rows side by side.
void run_experts(const ExpertRows& e, const std::function<void(int, const MatmulRows&)>& multiply);

}  // namespace mlxlm
