// Blocks that follow one another as one MLX operation, with their weights held by it: what a step of decoding then costs
// besides the blocks' own work is the same for one block as for a hundred.
#include <algorithm>

#include "block_run.h"

namespace mlxlm {

Stack::Stack(const std::vector<std::shared_ptr<const BlockShape>>& shapes,
             const std::vector<std::vector<mx::array>>& arrays)
    : shapes(shapes), arrays(arrays) {
  auto& encoder = mx::cpu::get_command_encoder(cpu_stream());
  for (size_t i = 0; i < shapes.size(); i++) {
    places.emplace_back(*shapes[i], 0);
    runs.emplace_back(*shapes[i], places[i], arrays[i], encoder);
  }
}

std::shared_ptr<const Stack> make_stack(const std::vector<std::shared_ptr<const BlockShape>>& shapes,
                                        const std::vector<std::vector<mx::array>>& arrays) {
  if (shapes.empty() || shapes.size() != arrays.size()) return nullptr;
  std::vector<mx::array> unread;  // weights that were loaded lazily; the step that is about to be made needs them
  for (const auto& of_block : arrays)
    for (const mx::array& a : of_block) {
      if (a.is_tracer()) return nullptr;
      if (!a.is_available()) unread.push_back(a);
    }
  if (!unread.empty()) mx::eval(unread);
  for (size_t i = 0; i < shapes.size(); i++) {
    if (int(arrays[i].size()) != Places(*shapes[i], 0).end) return nullptr;
    for (const mx::array& a : arrays[i])
      if (!a.flags().row_contiguous) return nullptr;
    if (shapes[i]->mixer == Mixer::mamba && !has_numbers(shapes[i]->mamba, Places(*shapes[i], 0), arrays[i])) return nullptr;
  }
  // A stack without any memory would have no buffer to be known by.
  if (std::all_of(shapes.begin(), shapes.end(), [](const auto& s) { return s->mixer == Mixer::none; })) return nullptr;
  return std::make_shared<const Stack>(shapes, arrays);
}

namespace {

// Inputs: x, the arrays of all memories, then offsets and masks where they are arrays.
class Blocks : public mx::Primitive {
 public:
  Blocks(mx::Stream s, std::shared_ptr<const Stack> stack, std::vector<BlockCall> calls)
      : mx::Primitive(s), stack_(std::move(stack)), calls_(std::move(calls)) {}
  const char* name() const override { return "mlxlm.Blocks"; }
  void eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) override {
    throw std::runtime_error("mlxlm.Blocks runs on the CPU only");
  }

  void eval_cpu(const std::vector<mx::array>& in, std::vector<mx::array>& out) override {
    auto& encoder = mx::cpu::get_command_encoder(stream());
    // Each output refers to all inputs, and what is referred to twice is not given away: this one's are enough.
    for (mx::array& a : out)
      if (&a.inputs() != &in && !a.is_tracer()) a.inputs().clear();
    const size_t n = stack_->size();
    allocate(out[0]);
    Buffers buffers(in[1]);
    for (size_t i = 1; i < out.size(); i++) buffers.take(in[i], out[i], encoder);
    mx::array between[2] = {like(in[0], encoder), like(in[0], encoder)};
    size_t memory = 1, next = out.size();
    const mx::array* offsets = calls_[0].has_offsets ? &in[next++] : nullptr;
    auto runs = stack_->runs;
    const void* x = row_major(in[0], encoder);
    for (size_t i = 0; i < n; i++) {
      void* y = i + 1 == n ? out[0].data<void>() : between[i % 2].data<void>();
      runs[i].set_rows(in[0], x, y);
      runs[i].set_memory(calls_[i], {out.begin() + memory, out.begin() + memory + stack_->arrays_of(i)});
      memory += stack_->arrays_of(i);
      if (offsets) runs[i].set_offsets(*offsets, encoder);
      if (calls_[i].has_mask) set_mask(runs[i].attention.mask, in[next++]);
      x = y;
    }
    encoder.dispatch([runs = std::move(runs), stack = stack_, ended = Buffers::leave(out[1])]() mutable {
      const Landing landing(ended);
      for (BlockRun& run : runs) run();
    });
  }

 private:
  static mx::array like(const mx::array& x, mx::cpu::CommandEncoder& encoder) {
    mx::array a(x.shape(), x.dtype(), nullptr, {});
    allocate(a);
    encoder.add_temporary(a);
    return a;
  }

  std::shared_ptr<const Stack> stack_;
  std::vector<BlockCall> calls_;
};

bool fits(const Stack& stack, const StackArguments& a) {
  const size_t n = stack.size();
  if (!on_cpu() || a.x.ndim() != 3 || a.x.size() == 0 || !is_kernel_float(a.x.dtype()) || a.x.is_tracer()) return false;
  if (a.memories.size() != n || a.places.size() != n || !(a.masks.empty() || a.masks.size() == n)) return false;
  for (size_t i = 0; i < n; i++) {
    const BlockShape& s = *stack.shapes[i];
    if (!fits_memory(s, a.x, a.memories[i], a.places[i])) return false;
    const int Dv = s.mixer == Mixer::attention ? a.memories[i][1].shape(3) : 0;
    if (!fits_weights(s, stack.places[i], stack.arrays[i], a.x.dtype(), a.x.shape(2), Dv)) return false;
  }
  return true;
}

}  // namespace

std::optional<StackResult> op_stack(const std::shared_ptr<const Stack>& stack, const StackArguments& a) {
  if (!fits(*stack, a)) return std::nullopt;
  const size_t n = stack->size();
  std::vector<mx::array> inputs{a.x};
  for (const Memory& memory : a.memories) inputs.insert(inputs.end(), memory.begin(), memory.end());
  std::vector<mx::Shape> shapes;
  std::vector<mx::Dtype> types;
  for (const mx::array& given : inputs) shapes.push_back(given.shape()), types.push_back(given.dtype());
  BlockCall all;
  if (!read_offset(a.x, a.offset, all, inputs)) return std::nullopt;
  std::vector<BlockCall> calls(n, all);
  for (size_t i = 0; i < n; i++) {
    calls[i].start = a.places[i].start, calls[i].first = a.places[i].first;
    if (!a.masks.empty() && !read_mask(*stack->shapes[i], a.x, a.masks[i], calls[i], inputs)) return std::nullopt;
  }
  auto out = mx::array::make_arrays(std::move(shapes), types,
                                    std::make_shared<Blocks>(cpu_stream(), stack, std::move(calls)), inputs);
  StackResult result(out[0], {});
  for (size_t i = 0, next = 1; i < n; next += stack->arrays_of(i++))
    result.second.emplace_back(out.begin() + next, out.begin() + next + stack->arrays_of(i));
  return result;
}

}  // namespace mlxlm
