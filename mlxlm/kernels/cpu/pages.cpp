// Slabs of large pages. Where the system has none to give, the same memory comes in small ones.
#include "pages.h"

#include <sys/mman.h>

#include <algorithm>
#include <map>
#include <new>

namespace mlxlm {

namespace {

constexpr size_t PAGE = size_t(2) << 20;   // as large as x86-64 and most ARM systems have them
constexpr size_t LINE = 64;                // arrays begin on cache lines
constexpr size_t ENOUGH = size_t(128) << 20;  // a slab takes no further array from here on

size_t up(size_t n, size_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// Where slabs lie: start to end. It lives as long as the process, as arrays may.
struct Known {
  std::mutex mutex;
  std::map<const char*, const char*> slabs;
};
Known& known() {
  static Known* all = new Known;
  return *all;
}

}  // namespace

Slab::Slab(size_t bytes)
    : align_(bytes < PAGE ? LINE : PAGE), bytes_(up(bytes, align_)), users_(bytes < PAGE ? 0 : bytes_ / PAGE) {}

void Slab::make() {
  buffer_ = mx::allocator::allocator().malloc(bytes_ + align_);
  if (!buffer_.ptr()) throw std::bad_alloc();
  memory_ = (char*)up(size_t(buffer_.raw_ptr()), align_);
#ifdef MADV_HUGEPAGE
  if (!users_.empty()) madvise(memory_, bytes_, MADV_HUGEPAGE);
#endif
  std::lock_guard lock(known().mutex);
  known().slabs[memory_] = memory_ + bytes_;
}

char* Slab::take(size_t start, size_t end) {
  std::lock_guard lock(mutex_);
  if (!memory_) make();
  for (size_t page = start / PAGE; page < users_.size() && page * PAGE < end; page++) users_[page]++;
  return memory_ + start;
}

void Slab::leave(size_t start, size_t end) {
  std::lock_guard lock(mutex_);
  for (size_t page = start / PAGE; page < users_.size() && page * PAGE < end; page++)
    if (--users_[page] == 0) madvise(memory_ + page * PAGE, PAGE, MADV_DONTNEED);
}

Slab::~Slab() {
  if (!memory_) return;
  {
    std::lock_guard lock(known().mutex);
    known().slabs.erase(memory_);
  }
  mx::allocator::allocator().free(buffer_);
}

Place::~Place() {
  if (memory_) slab_->leave(start_, start_ + bytes_);
}

mx::allocator::Data Place::data(const std::shared_ptr<Place>& self) {
  // MLX's buffers begin with their size, and the data come behind it.
  if (!self->memory_) self->memory_ = self->slab_->take(self->start_, self->start_ + self->bytes_);
  size_t* buffer = (size_t*)self->memory_;
  *buffer = self->bytes_ - sizeof(size_t);
  return mx::allocator::Data(mx::allocator::Buffer(buffer), [self](mx::allocator::Buffer) {});
}

std::vector<std::shared_ptr<Place>> places_for(const std::vector<size_t>& bytes) {
  std::vector<std::shared_ptr<Place>> places;
  std::vector<std::pair<size_t, size_t>> bounds;
  const auto finish = [&] {
    const auto slab = std::make_shared<Slab>(bounds.back().second);
    for (const auto& [start, end] : bounds) places.push_back(std::make_shared<Place>(slab, start, end - start));
    bounds.clear();
  };
  for (size_t n : bytes) {
    const size_t data = up((bounds.empty() ? 0 : bounds.back().second) + sizeof(size_t), LINE);
    bounds.push_back({data - sizeof(size_t), data + n});
    if (bounds.back().second >= ENOUGH) finish();
  }
  if (!bounds.empty()) finish();
  return places;
}

bool in_large_pages(const mx::array& a) {
  const char* data = (const char*)a.buffer().raw_ptr();
  std::lock_guard lock(known().mutex);
  auto slab = known().slabs.upper_bound(data);
  return slab != known().slabs.begin() && data < std::prev(slab)->second;
}

}  // namespace mlxlm
