// Weights brought into large pages: read from a file when they are needed, or copied from where they were made.
#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>

#include "ops.h"
#include "pages.h"
#include "primitive.h"

namespace mlxlm {

namespace {

constexpr size_t PIECE = size_t(4) << 20;  // bytes that one thread moves at a time

// move(start, count) for all pieces of so many bytes, by several threads.
template <class F>
void in_pieces(size_t bytes, const F& move) {
  parallel_for(int((bytes + PIECE - 1) / PIECE), [&](int i) {
    const size_t start = i * PIECE;
    move(start, bytes - start < PIECE ? bytes - start : PIECE);
  });
}

class File {
 public:
  explicit File(const std::string& path) : path_(path), fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (fd_ < 0) throw std::runtime_error(told(std::strerror(errno)));
  }
  ~File() { ::close(fd_); }
  File(const File&) = delete;

  void expect(size_t at, size_t bytes) const { posix_fadvise(fd_, at, bytes, POSIX_FADV_WILLNEED); }

  void read(size_t at, char* to, size_t bytes) const {
    std::atomic<int> wrong{0};
    in_pieces(bytes, [&](size_t start, size_t count) {
      while (count && !wrong) {
        const ssize_t n = ::pread(fd_, to + start, count, at + start);
        if (n > 0) start += n, count -= n;
        else if (n == 0) wrong = -1;
        else if (errno != EINTR) wrong = errno;
      }
    });
    if (wrong) throw std::runtime_error(told(wrong < 0 ? "it ends too early" : std::strerror(wrong)));
  }

 private:
  std::string told(const char* what) const { return "[mlxlm.read] " + path_ + ": " + what; }

  std::string path_;
  int fd_;
};

// A tensor that stands in a file as it will in memory.
class Read : public Kernel {
 public:
  Read(mx::Stream s, std::shared_ptr<const File> file, size_t at, std::shared_ptr<Place> place)
      : Kernel(s), file_(std::move(file)), at_(at), place_(std::move(place)) {}
  const char* name() const override { return "mlxlm.Read"; }
  mx::array plain(const std::vector<mx::array>&) const override { throw std::logic_error("mlxlm.Read has no inputs"); }

  void eval_cpu(const std::vector<mx::array>&, mx::array& out) override {
    out.set_data(Place::data(place_));
    file_->expect(at_, out.nbytes());
    mx::cpu::get_command_encoder(stream()).dispatch(
        [file = file_, at = at_, to = out.data<char>(), bytes = out.nbytes()] { file->read(at, to, bytes); });
  }

 private:
  std::shared_ptr<const File> file_;
  size_t at_;
  std::shared_ptr<Place> place_;
};

// Whether each matrix lies row by row, its rows one after the other.
bool by_rows(const mx::array& a) {
  return a.ndim() < 2 || (a.strides(-1) == 1 && a.strides(-2) == a.shape(-1));
}

// A copy in large pages, row by row, or the array itself where it lies so already or stands for more than it holds.
class Settle : public Kernel {
 public:
  Settle(mx::Stream s, std::shared_ptr<Place> place) : Kernel(s), place_(std::move(place)) {}
  const char* name() const override { return "mlxlm.Settle"; }
  mx::array plain(const std::vector<mx::array>& in) const override { return in[0]; }

  void eval_cpu(const std::vector<mx::array>& in, mx::array& out) override {
    const mx::array& a = in[0];
    if (a.data_size() < a.size() || (by_rows(a) && in_large_pages(a))) {
      out.copy_shared_buffer(a);
      return;
    }
    out.set_data(Place::data(place_));
    auto& encoder = mx::cpu::get_command_encoder(stream());
    const char* from = a.data<char>();
    char* to = out.data<char>();
    if (a.flags().row_contiguous) {
      encoder.dispatch([from, to, bytes = a.nbytes()] {
        in_pieces(bytes, [&](size_t start, size_t count) { std::memcpy(to + start, from + start, count); });
      });
      return;
    }
    encoder.dispatch([from, to, shape = a.shape(), strides = a.strides(), item = a.itemsize(), bytes = a.nbytes()] {
      const int parts = shape.size() > 1 ? shape[0] : 1;
      mx::Shape part = shape;
      part[0] /= parts;
      parallel_for(parts, [&](int i) {
        copy_strided(from + i * strides[0] * int64_t(item), to + bytes / parts * i, part, strides, item);
      });
    });
  }

 private:
  std::shared_ptr<Place> place_;
};

bool settled(const mx::array& a) {
  if (a.has_primitive() && dynamic_cast<const Read*>(&a.primitive())) return true;
  return a.size() == 0 || (a.is_available() && by_rows(a) && in_large_pages(a));
}

}  // namespace

std::vector<mx::array> op_read(const std::string& path, const std::vector<StoredTensor>& tensors) {
  const auto file = std::make_shared<const File>(path);
  std::vector<size_t> bytes;
  for (const auto& [at, shape, type] : tensors) {
    bytes.push_back(mx::size_of(type));
    for (int n : shape) bytes.back() *= n;
  }
  const auto places = places_for(bytes);
  std::vector<mx::array> all;
  for (size_t i = 0; i < tensors.size(); i++) {
    const auto& [at, shape, type] = tensors[i];
    all.emplace_back(mx::Shape(shape.begin(), shape.end()), type, std::make_shared<Read>(cpu_stream(), file, at, places[i]), std::vector<mx::array>{});
  }
  return all;
}

std::vector<MaybeArray> op_settle(const std::vector<mx::array>& arrays) {
  std::vector<size_t> bytes;
  for (const mx::array& a : arrays)
    if (!settled(a)) bytes.push_back(a.nbytes());
  const auto places = places_for(bytes);
  std::vector<MaybeArray> copies;
  size_t next = 0;
  for (const mx::array& a : arrays) {
    copies.emplace_back();
    if (next < places.size() && !settled(a))
      copies.back() = mx::array(a.shape(), a.dtype(), std::make_shared<Settle>(cpu_stream(), places[next++]), {a});
  }
  return copies;
}

}  // namespace mlxlm
