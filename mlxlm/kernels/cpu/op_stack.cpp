// Blocks that follow one another as one MLX operation, with their weights held by it: what a step of decoding then costs
// besides the blocks' own work is the same for one block as for a hundred.
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
  }
  return std::make_shared<const Stack>(shapes, arrays);
}

namespace {

// Inputs: x, all keys, all values, then offsets and masks where they are arrays.
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
    for (size_t i = 1; i <= 2 * n; i++) buffers.take(in[i], out[i], encoder);
    mx::array between[2] = {like(in[0], encoder), like(in[0], encoder)};
    size_t next = 2 * n + 1;
    const mx::array* offsets = calls_[0].has_offsets ? &in[next++] : nullptr;
    auto runs = stack_->runs;
    const void* x = row_major(in[0], encoder);
    for (size_t i = 0; i < n; i++) {
      void* y = i + 1 == n ? out[0].data<void>() : between[i % 2].data<void>();
      runs[i].set_rows(in[0], x, y);
      runs[i].set_cache(calls_[i], out[1 + i], out[1 + n + i]);
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
  if (a.keys.size() != n || a.values.size() != n || a.places.size() != n) return false;
  if (!a.masks.empty() && a.masks.size() != n) return false;
  for (size_t i = 0; i < n; i++)
    if (!fits_cache(*stack.shapes[i], a.x, a.keys[i], a.values[i], a.places[i]) ||
        !fits_weights(*stack.shapes[i], stack.places[i], stack.arrays[i], a.x.dtype(), a.x.shape(2), a.values[i].shape(3)))
      return false;
  return true;
}

}  // namespace

std::optional<StackResult> op_stack(const std::shared_ptr<const Stack>& stack, const StackArguments& a) {
  if (!fits(*stack, a)) return std::nullopt;
  const size_t n = stack->size();
  std::vector<mx::array> inputs{a.x};
  inputs.insert(inputs.end(), a.keys.begin(), a.keys.end());
  inputs.insert(inputs.end(), a.values.begin(), a.values.end());
  BlockCall all;
  if (!read_offset(a.x, a.offset, all, inputs)) return std::nullopt;
  std::vector<BlockCall> calls(n, all);
  std::vector<mx::Shape> shapes{a.x.shape()};
  for (size_t i = 0; i < n; i++) {
    calls[i].start = a.places[i].start, calls[i].first = a.places[i].first;
    if (!a.masks.empty() && !read_mask(*stack->shapes[i], a.x, a.masks[i], calls[i], inputs)) return std::nullopt;
  }
  for (const auto* group : {&a.keys, &a.values})
    for (const mx::array& buffer : *group) shapes.push_back(buffer.shape());
  const std::vector<mx::Dtype> types(shapes.size(), a.x.dtype());
  auto out = mx::array::make_arrays(std::move(shapes), types,
                                    std::make_shared<Blocks>(cpu_stream(), stack, std::move(calls)), inputs);
  return StackResult(out[0], {out.begin() + 1, out.begin() + 1 + n}, {out.begin() + 1 + n, out.end()});
}

}  // namespace mlxlm
