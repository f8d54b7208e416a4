// Tasks over a large matrix, in the order that lets each thread read straight on: a processor fetches ahead of a reader
// that goes on where it was, and two threads that take turns lose a fifth of what memory can give.
#pragma once
#include "pool.h"

namespace {

// Like parallel_for, where task i reads the memory behind that of task i - 1.
template <class F>
inline void parallel_streams(int count, const F& body) {
  mlxlm::parallel_runs(count, [](void* context, int i) { (*(const F*)context)(i); }, (void*)&body);
}

// How many rows of so many bytes make a task: enough for a reader to get going, few enough to share out evenly.
inline int rows_of_stream(int64_t row_bytes, int rows) {
  const int64_t all = row_bytes * rows, even = all / (16 * mlxlm::pool_size());
  const int64_t task = even < 32 << 10 ? 32 << 10 : even < 256 << 10 ? even : 256 << 10;
  return int(task / row_bytes) + 1;
}

}  // namespace
