// One decoder's block with all it needs, ready to run: by pointers, as MLX's arrays may be gone by then.
#pragma once
#include <array>
#include <atomic>
#include <functional>

#include "block.h"
#include "experts_run.h"
#include "mamba_run.h"

namespace mlxlm {

struct Norm {
  Vector weight;
  float eps = 0, offset = 0;
  bool present = false;

  Norm() = default;
  Norm(const NormShape& s, const std::vector<mx::array>& in, int place, mx::cpu::CommandEncoder& encoder);
  void run(Dtype type, const void* x, void* out, int64_t rows, Arena& arena) const;
  size_t bytes() const { return present ? 2 * Arena::piece(sizeof(float) * weight.size) : 0; }
};

struct BlockRun {
  const BlockShape* shape;
  BlockCall call{};
  Dtype type{};
  int B = 0, L = 0, dim = 0;
  const void* x = nullptr;
  void* out = nullptr;
  Norm before, after, before_mlp, after_mlp, q_norm, k_norm;
  Projection q, k, v, o, gate, up, down, router;
  MambaRun mamba;
  ExpertsRun experts;
  Vector sinks, choice_bias;
  const float* freqs = nullptr;
  const int32_t* offsets = nullptr;
  int offset_count = 1;
  Attention attention{};  // k and v as the cache has them

  // The weights, as they stand in `in` from the places on.
  BlockRun(const BlockShape& shape, const Places& at, const std::vector<mx::array>& in, mx::cpu::CommandEncoder& encoder);

  // Where to work: rows (B, L, dim) from and to memory, and the block's memory, which takes the new tokens.
  void set_rows(const mx::array& like, const void* from, void* to);
  void set_cache(const BlockCall& call, mx::array& keys, mx::array& values);
  void set_memory(const BlockCall& call, Memory memory);
  void set_offsets(const mx::array& offsets, mx::cpu::CommandEncoder& encoder);

  void operator()();

 private:
  size_t item() const { return size_of(type); }
  int M() const { return B * L; }
  Rows rows() const { return {type, M(), L > kDecoding}; }
  int fed_at_once() const;
  size_t memory();
  std::array<Projection*, 10> projections() {
    return {&q, &k, &v, &o, &gate, &up, &down, &router, &mamba.in, &mamba.out};
  }
  void attend(Arena& arena, void* y);
  void recur(Arena& arena, void* y);
  void feed(Arena& arena, const void* y);
  void open_up(Rows rows, const void* x, void* wide, Arena& arena) const;
  void feed_some(Arena arena, Rows rows, const void* y, void* to);
  void finish(const Projection& p, const Norm& norm, Rows rows, const void* from, const void* residual, void* to,
              void* spare, Arena& arena);
  void consult(Arena& arena, const void* y);
  void choose(Arena& arena, const void* h, uint32_t* picks, float* share);
  void turn(const void* from, void* to, int heads) const;
  void append(const void* from, const void* cache, const int64_t* stride, int size,
              std::array<int64_t, 3> from_stride) const;
};

// Blocks that follow one another, with their weights: all but where to work.
class Stack {
 public:
  Stack(const std::vector<std::shared_ptr<const BlockShape>>& shapes, const std::vector<std::vector<mx::array>>& arrays);
  size_t size() const { return shapes.size(); }
  // How many arrays the memory of block i has.
  size_t arrays_of(size_t i) const { return shapes[i]->mixer == Mixer::none ? 0 : 2; }

  const std::vector<std::shared_ptr<const BlockShape>> shapes;
  const std::vector<std::vector<mx::array>> arrays;
  std::vector<Places> places;
  std::vector<BlockRun> runs;
};

// The cache's buffers for an operation to write into: the very ones where nothing else refers to them, else copies.
//
// MLX refers to what an operation uses until it has run. The next step comes before that, and would copy the whole cache:
// it waits for what is under way instead, which it could not overtake anyway.
class Buffers {
 public:
  // `first` is the first of the buffers.
  explicit Buffers(const mx::array& first);
  void take(const mx::array& from, mx::array& to, mx::cpu::CommandEncoder& encoder);
  // What is to be called when the operation has run, whose first buffer this is: by a `Landing`.
  static std::function<void()> leave(const mx::array& first);

 private:
  void settle(const mx::array& from, mx::cpu::CommandEncoder& encoder);
  std::shared_ptr<std::atomic<int64_t>> done_;  // when all that was asked for before is
};

// Calls at the end of its scope, however that is left: who waits for an operation must not wait for one that failed.
class Landing {
 public:
  explicit Landing(const std::function<void()>& end) : end_(end) {}
  ~Landing() { end_(); }
  Landing(const Landing&) = delete;

 private:
  const std::function<void()>& end_;
};

}  // namespace mlxlm
