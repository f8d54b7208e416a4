// Threads for the inside of one operation. The thread that calls takes part; several callers never mix.
#pragma once
#include <cstddef>

namespace mlxlm {

// Runs task(context, 0) .. task(context, count - 1), each once, on the pool, and returns when all are done.
// When another thread is using the pool, or count is 1, the caller runs them all itself.
void parallel(int count, void (*task)(void*, int), void* context);

// The same in as many runs of neighbours as there are threads: each thread goes through one in order, and through what is
// left of the others' when it has done with that.
void parallel_runs(int count, void (*task)(void*, int), void* context);

int pool_size();

// A buffer of at least `bytes`, 64-byte aligned, of the calling thread: valid until its next use of the slot.
void* scratch(int slot, size_t bytes);
enum Slot { kInput, kPanel, kTile, kRows, kPrivate, kScores, kOther, kBlock, kSlots };

template <class F>
inline void parallel_for(int count, const F& body) {
  parallel(count, [](void* context, int i) { (*(const F*)context)(i); }, (void*)&body);
}

}  // namespace mlxlm
