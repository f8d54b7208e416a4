// Runs chosen experts token by token: all their first matrices as one list for the threads, then all the last ones.
#include "experts_run.h"

namespace mlxlm {

namespace {

MaybeArray biases_of(const LinearShape& s, const std::vector<mx::array>& in, int at) {
  return s.has_biases ? MaybeArray(in[at + 2]) : std::nullopt;
}

}  // namespace

ExpertStack::ExpertStack(const LinearShape& s, const std::vector<mx::array>& in, int& at, mx::cpu::CommandEncoder& encoder)
    : first(matrix_of(layout_of(in[at], in[at + 1], biases_of(s, in, at), s.group, s.bits, s.mode, 3), in, at, encoder)),
      experts(in[at].shape(0)) {
  if (s.has_bias) bias = Vector(in[at + s.arrays() - 1], encoder);
  at += s.arrays();
}

const float* ExpertStack::bias_of(int expert, float* memory) const {
  if (!bias.data) return nullptr;
  Vector own = bias;
  own.size = first.N;
  own.data = (const char*)bias.data + size_of(bias.type) * first.N * expert;
  return own.read(memory);
}

ExpertsRun::ExpertsRun(const std::vector<LinearShape>& linears, Gate act, const std::vector<mx::array>& in, int at,
                       mx::cpu::CommandEncoder& encoder)
    : gate(linears[0], in, at, encoder), act(act) {
  if (linears.size() == 3) up = ExpertStack(linears[1], in, at, encoder);
  down = ExpertStack(linears.back(), in, at, encoder);
}

size_t ExpertsRun::memory(Dtype type, int k) const {
  return k * (Arena::piece(size_of(type) * gate.first.N) + gate.bias_bytes() + up.bias_bytes() + down.bias_bytes()) + 64;
}

void ExpertsRun::run(Rows rows, const void* x, int k, const uint32_t* picks, const float* share, const void* residual,
                     void* out, Arena& arena) const {
  const size_t item = size_of(rows.type);
  const int N = gate.first.N, wide = down.first.N, each = up.experts ? 2 : 1;
  std::vector<QuantizedMatrix> in(each * k), back(k);
  std::vector<const float*> in_bias(each * k), back_bias(k);
  std::vector<void*> hidden(k);
  std::vector<float*> memory;
  for (int i = 0; i < k; i++) hidden[i] = arena.take(item * N);
  for (int i = 0; i < k; i++)
    for (const ExpertStack* s : {&gate, &up, &down}) memory.push_back((float*)arena.take(s->bias_bytes()));
  for (int m = 0; m < rows.M; m++) {
    for (int i = 0; i < k; i++) {
      // An index out of range must not read past the stack.
      const uint32_t pick = picks[size_t(m) * k + i];
      const int expert = pick < uint32_t(gate.experts) ? int(pick) : gate.experts - 1;
      in[each * i] = gate.first.at(expert), in_bias[each * i] = gate.bias_of(expert, memory[3 * i]);
      if (each == 2) in[2 * i + 1] = up.first.at(expert), in_bias[2 * i + 1] = up.bias_of(expert, memory[3 * i + 1]);
      back[i] = down.first.at(expert), back_bias[i] = down.bias_of(expert, memory[3 * i + 2]);
    }
    const void* row = (const char*)x + item * gate.first.K * m;
    kernels().few_rows({in.data(), each * k, each == 2 ? Join::gated : Join::each, act, rows.type, 1, &row, hidden.data(),
                        in_bias.data(), nullptr, nullptr});
    if (each == 1)
      for (void* h : hidden) kernels().gated(rows.type, act, h, nullptr, h, N);
    void* to = (char*)out + item * wide * m;
    kernels().few_rows({back.data(), k, Join::sum, act, rows.type, 1, (const void* const*)hidden.data(), &to,
                        back_bias.data(), share + size_t(m) * k,
                        residual ? (const char*)residual + item * wide * m : nullptr});
  }
}

bool fit_as_experts(const std::vector<LinearShape>& linears, const std::vector<mx::array>& in, int at, int K) {
  if (linears.size() != 2 && linears.size() != 3) return false;
  const int experts = in[at].ndim() == 3 ? in[at].shape(0) : 0, hidden = experts ? in[at].shape(1) : 0;
  Layout first;
  for (size_t i = 0; i < linears.size(); i++) {
    const LinearShape& s = linears[i];
    if (at + s.arrays() > int(in.size()) || !s.quantized) return false;
    const Layout l = layout_of(in[at], in[at + 1], biases_of(s, in, at), s.group, s.bits, s.mode, 3);
    const bool last = i + 1 == linears.size();
    if (!l.valid || in[at + 1].shape(2) * l.group != (last ? hidden : K)) return false;
    if (i == 0) first = l;
    if (in[at].shape(0) != experts || in[at].shape(1) != (last ? K : hidden)) return false;
    // The gate and what it opens go side by side.
    if (!last && (l.group != first.group || l.bits != first.bits || l.format != first.format)) return false;
    if (s.has_bias) {
      const mx::array& b = in[at + s.arrays() - 1];
      if (b.shape() != mx::Shape({experts, in[at].shape(1)}) || !is_kernel_float(b.dtype())) return false;
    }
    at += s.arrays();
  }
  return experts > 0;
}

}  // namespace mlxlm
