// The common part of our primitives: devices, gradients, and inputs of any strides made readable.
#include "primitive.h"

#include <cstring>

namespace mlxlm {

bool is_kernel_float(mx::Dtype t) { return t == mx::float32 || t == mx::bfloat16 || t == mx::float16; }

Dtype kernel_type(mx::Dtype t) {
  return t == mx::float32 ? Dtype::f32 : t == mx::bfloat16 ? Dtype::bf16 : Dtype::f16;
}

bool on_cpu() { return mx::default_device().type == mx::Device::cpu; }

mx::Stream cpu_stream() { return mx::default_stream(mx::Device::cpu); }

void Kernel::eval_gpu(const std::vector<mx::array>&, mx::array&) {
  throw std::runtime_error(std::string(name()) + " runs on the CPU only");
}

// The plain operation as a function of some of its inputs.
static std::function<std::vector<mx::array>(const std::vector<mx::array>&)> of_some(const Kernel& kernel,
                                                                                   const std::vector<mx::array>& all,
                                                                                   const std::vector<int>& which) {
  return [&kernel, all, which](const std::vector<mx::array>& some) {
    auto inputs = all;
    for (size_t i = 0; i < which.size(); i++) inputs[which[i]] = some[i];
    return std::vector<mx::array>{kernel.plain(inputs)};
  };
}

static std::vector<mx::array> chosen(const std::vector<mx::array>& all, const std::vector<int>& which) {
  std::vector<mx::array> some;
  for (int i : which) some.push_back(all[i]);
  return some;
}

std::vector<mx::array> Kernel::vjp(const std::vector<mx::array>& primals, const std::vector<mx::array>& cotangents,
                                   const std::vector<int>& argnums, const std::vector<mx::array>&) {
  return mx::vjp(of_some(*this, primals, argnums), chosen(primals, argnums), cotangents).second;
}

std::vector<mx::array> Kernel::jvp(const std::vector<mx::array>& primals, const std::vector<mx::array>& tangents,
                                   const std::vector<int>& argnums) {
  return mx::jvp(of_some(*this, primals, argnums), chosen(primals, argnums), tangents).second;
}

std::pair<std::vector<mx::array>, std::vector<int>> Kernel::vmap(const std::vector<mx::array>& inputs,
                                                                 const std::vector<int>& axes) {
  auto whole = [this](const std::vector<mx::array>& in) { return std::vector<mx::array>{plain(in)}; };
  return {mx::vmap(whole, axes, {0})(inputs), {0}};
}

void allocate(mx::array& out) { out.set_data(mx::allocator::malloc(out.nbytes())); }

void copy_strided(const char* from, char* to, const mx::Shape& shape, const mx::Strides& strides, size_t item) {
  const int last = int(shape.size()) - 1;
  if (last < 0) {
    std::memcpy(to, from, item);
    return;
  }
  const int64_t inner = shape[last], step = strides[last] * int64_t(item);
  int64_t rows = 1;
  for (int i = 0; i < last; i++) rows *= shape[i];
  for (int64_t row = 0; row < rows; row++, to += inner * item) {
    int64_t offset = 0, rest = row;
    for (int i = last - 1; i >= 0; i--) {
      offset += rest % shape[i] * strides[i];
      rest /= shape[i];
    }
    const char* line = from + offset * int64_t(item);
    if (step == int64_t(item)) std::memcpy(to, line, inner * item);
    else if (item == 4) for (int64_t i = 0; i < inner; i++) std::memcpy(to + i * 4, line + i * step, 4);
    else if (item == 2) for (int64_t i = 0; i < inner; i++) std::memcpy(to + i * 2, line + i * step, 2);
    else for (int64_t i = 0; i < inner; i++) std::memcpy(to + i * item, line + i * step, item);
  }
}

static mx::array row_major_copy(const mx::array& a, mx::cpu::CommandEncoder& encoder) {
  mx::array copy(a.shape(), a.dtype(), nullptr, {});
  allocate(copy);
  encoder.add_temporary(copy);
  encoder.dispatch([from = a.data<char>(), to = copy.data<char>(), shape = a.shape(), strides = a.strides(),
                    item = a.itemsize()] { copy_strided(from, to, shape, strides, item); });
  return copy;
}

const void* row_major(const mx::array& a, mx::cpu::CommandEncoder& encoder) {
  if (a.flags().row_contiguous) return a.data<void>();
  return row_major_copy(a, encoder).data<void>();
}

void make_rows(mx::array& a, mx::cpu::CommandEncoder& encoder) {
  if (a.strides(-1) != 1 && a.shape(-1) != 1) a = row_major_copy(a, encoder);
}

DenseMatrix make_matrix(mx::array& a, bool& by_rows, mx::cpu::CommandEncoder& encoder) {
  by_rows = a.strides(-2) == 1;
  if (!by_rows) make_rows(a, encoder);
  const int K = a.shape(-2), N = a.shape(-1);
  return {a.data<void>(), kernel_type(a.dtype()), by_rows ? N : K, by_rows ? K : N, a.strides(by_rows ? -1 : -2)};
}

}  // namespace mlxlm
