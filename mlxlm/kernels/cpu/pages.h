// Weights' memory in large pages: a processor that reads through it looks up an address once in 2 MB, not once in 4 kB.
#pragma once
#include <memory>
#include <mutex>
#include <vector>

#include "mlx/mlx.h"

namespace mlxlm {

namespace mx = mlx::core;

// Memory for several arrays side by side. It comes from MLX's allocator, which counts it, when the first array needs it;
// each large page goes back to the system with the last array on it, and the rest with the last of all.
class Slab {
 public:
  explicit Slab(size_t bytes);
  ~Slab();
  Slab(const Slab&) = delete;

  // The bytes from start to end, for an array that is to be. Throws std::bad_alloc.
  char* take(size_t start, size_t end);
  void leave(size_t start, size_t end);

 private:
  void make();

  size_t align_, bytes_;
  std::mutex mutex_;
  char* memory_ = nullptr;
  mx::allocator::Buffer buffer_{nullptr};
  std::vector<int> users_;  // arrays on each large page; none for a slab that is smaller than one
};

// One array's part of a slab, held by whoever will fill it and then by the array.
class Place {
 public:
  Place(std::shared_ptr<Slab> slab, size_t start, size_t bytes) : slab_(std::move(slab)), start_(start), bytes_(bytes) {}
  ~Place();
  Place(const Place&) = delete;

  // The part as the data of an array, for which `self` stays.
  static mx::allocator::Data data(const std::shared_ptr<Place>& self);

 private:
  std::shared_ptr<Slab> slab_;
  size_t start_, bytes_;
  char* memory_ = nullptr;  // once it is taken
};

// Places for arrays of so many bytes, neighbours near each other.
std::vector<std::shared_ptr<Place>> places_for(const std::vector<size_t>& bytes);

// Whether an array's data lies in a slab.
bool in_large_pages(const mx::array& a);

}  // namespace mlxlm
