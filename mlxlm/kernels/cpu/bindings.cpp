// The extension module `_cpu`: the operations by the names that mlxlm.kernels.ops gives them.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

#include "block_run.h"
#include "mlx/version.h"
#include "ops.h"
#include "pool.h"
#include "table.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace mlxlm;

static std::string compiled_version() {
  return std::to_string(MLX_VERSION_MAJOR) + "." + std::to_string(MLX_VERSION_MINOR) + "." +
         std::to_string(MLX_VERSION_PATCH);
}

// The name of the instruction set in force, or None where the machine lacks the one that was asked for.
static std::optional<std::string> choose(const std::string& forced) {
  const Table* table = choose_table(forced.c_str());
  return table ? std::optional<std::string>(table->name) : std::nullopt;
}

// What Python holds of ours. A shared pointer that came from a Python object would take Python's lock to let go of it, in
// whichever thread that happens: these hold one that did not.
struct BlockHandle {
  std::shared_ptr<BlockShape> shape = std::make_shared<BlockShape>();
};
struct StackHandle {
  std::shared_ptr<const Stack> stack;
};

// (mode or None for a dense layer, group, bits, whether it has a bias, whether it rounds a prompt's activations)
using LinearGiven = std::tuple<std::optional<std::string>, std::optional<int>, std::optional<int>, bool, bool>;

static LinearShape linear_shape(const LinearGiven& given) {
  const auto& [mode, group, bits, bias, int8] = given;
  return {mode.has_value(), mode == "affine", bias, mode.value_or(""), group, bits, int8};
}

static Softmax softmax_of(const std::string& when) {
  return when == "before" ? Softmax::before : when == "after" ? Softmax::after : Softmax::none;
}

static Gate gate_of(const std::string& name) {
  static const std::pair<const char*, Gate> names[] = {{"silu", Gate::silu}, {"gelu_tanh", Gate::gelu_tanh},
      {"squared_relu", Gate::squared_relu}, {"gelu", Gate::gelu}, {"quick_gelu", Gate::quick_gelu}};
  for (const auto& [known, gate] : names)
    if (name == known) return gate;
  throw nb::value_error("no such activation");
}

// `rope` is (dims, traditional, base, whether frequencies come as an array); `linears` are those of q, k, v, o.
static void set_attention(BlockHandle& block, int heads, int kv_heads, int head_dim, float scale, float cap,
                          const std::vector<NormShape>& head_norms, bool sinks,
                          const std::optional<std::tuple<int, bool, float, bool>>& rope,
                          const std::vector<LinearGiven>& linears) {
  block.shape->mixer = Mixer::attention;
  AttentionShape& a = block.shape->attention;
  a.heads = heads, a.kv_heads = kv_heads, a.head_dim = head_dim, a.scale = scale, a.cap = cap, a.sinks = sinks;
  a.q_norm = head_norms.at(0), a.k_norm = head_norms.at(1);
  if (rope) std::tie(a.rope_dims, a.traditional, a.base, a.has_freqs) = *rope;
  a.q = linear_shape(linears.at(0)), a.k = linear_shape(linears.at(1)), a.v = linear_shape(linears.at(2));
  a.o = linear_shape(linears.at(3));
}

// `norm` is (eps, groups); `linears` are those into and out of the mixer.
static void set_mamba(BlockHandle& block, int heads, int head_dim, int groups, int state, int width,
                      std::pair<float, float> bounds, bool conv_bias, const std::optional<std::pair<float, int>>& norm,
                      const std::vector<LinearGiven>& linears) {
  block.shape->mixer = Mixer::mamba;
  MambaShape& m = block.shape->mamba;
  m.heads = heads, m.head_dim = head_dim, m.groups = groups, m.state = state, m.width = width;
  std::tie(m.least, m.most) = bounds;
  m.conv_bias = conv_bias, m.normed = norm.has_value();
  if (norm) std::tie(m.eps, m.norm_groups) = *norm;
  m.in = linear_shape(linears.at(0)), m.out = linear_shape(linears.at(1));
}

// `linears` are gate, up and down, or only the last two.
static void set_mlp(BlockHandle& block, const std::string& act, const std::vector<LinearGiven>& linears,
                    const NormShape& before, const NormShape& after) {
  BlockShape& s = *block.shape;
  const bool gated = linears.size() == 3;
  s.mlp = {gate_of(act), gated, gated ? linear_shape(linears[0]) : LinearShape(), linear_shape(linears.at(gated)),
           linear_shape(linears.at(gated + 1))};
  s.before_mlp = before, s.after_mlp = after;
}

// (k, softmax, groups, keep_groups, group_best, normalise, scale, eps), as `route` takes them
using RouteGiven = std::tuple<int, std::string, int, int, int, bool, float, float>;

// `linears` are those of the router, then two or three with an expert axis.
static void set_experts(BlockHandle& block, const RouteGiven& route, bool scored, const std::string& act,
                        const std::vector<LinearGiven>& linears, const NormShape& before, const NormShape& after) {
  const auto& [k, softmax, groups, keep_groups, group_best, normalise, scale, eps] = route;
  ExpertsShape s{{k, softmax_of(softmax), groups, keep_groups, group_best, normalise, scale, eps}, scored,
                 linear_shape(linears.at(0)), gate_of(act), {}};
  for (size_t i = 1; i < linears.size(); i++) s.linears.push_back(linear_shape(linears[i]));
  block.shape->experts = std::move(s);
  block.shape->before_mlp = before, block.shape->after_mlp = after;
}

static MaybeArray experts_step(const mx::array& x, const mx::array& picks, const mx::array& weights,
                               const std::vector<LinearGiven>& linears, const std::vector<mx::array>& arrays,
                               const std::string& gate) {
  std::vector<LinearShape> shapes;
  for (const LinearGiven& given : linears) shapes.push_back(linear_shape(given));
  return op_experts_step(x, picks, weights, shapes, arrays, gate.empty() ? Gate::silu : gate_of(gate));
}

static auto route(const mx::array& logits, const MaybeArray& bias, int k, const std::string& softmax, int groups,
                  int keep_groups, int group_best, bool normalise, float scale, float eps) {
  return op_route(logits, bias, {k, softmax_of(softmax), groups, keep_groups, group_best, normalise, scale, eps});
}

static auto run_block(const BlockHandle& block, const mx::array& x,
                      const std::vector<mx::array>& arrays, const mx::array& keys, const mx::array& values, int start,
                      int first, const Offset& offset, const AnyMask& mask) {
  return op_block(block.shape, {x, arrays, keys, values, {start, first}, offset, mask});
}

static auto run_stack(const StackHandle& stack, const mx::array& x, const std::vector<Memory>& memories,
                      const std::vector<std::pair<int, int>>& places,
                      const Offset& offset, const std::vector<AnyMask>& masks) {
  std::vector<BlockPlace> at;
  for (const auto& [start, first] : places) at.push_back({start, first});
  return op_stack(stack.stack, {x, memories, std::move(at), offset, masks});
}

static std::optional<StackHandle> stack_of(const std::vector<BlockHandle>& blocks,
                                           const std::vector<std::vector<mx::array>>& arrays) {
  std::vector<std::shared_ptr<const BlockShape>> shapes;
  for (const BlockHandle& block : blocks) shapes.push_back(block.shape);
  std::shared_ptr<const Stack> stack;
  {
    const nb::gil_scoped_release others;  // lest a thread that lets go of a weight's source waits for this one
    stack = make_stack(shapes, arrays);
  }
  if (!stack) return std::nullopt;
  return StackHandle{stack};
}

// Whether each (dictionary, key, value) still holds: the very value is found there, and nothing where it is None.
static bool unchanged(const nb::list& held) {
  for (nb::handle item : held) {
    PyObject* triple = item.ptr();
    PyObject* found = PyDict_GetItemWithError(PyTuple_GET_ITEM(triple, 0), PyTuple_GET_ITEM(triple, 1));
    if ((found ? found : Py_None) != PyTuple_GET_ITEM(triple, 2)) {
      PyErr_Clear();
      return false;
    }
  }
  return true;
}

NB_MODULE(_cpu, m) {
  m.def("experts_step", &experts_step, "x"_a, "picks"_a, "weights"_a, "linears"_a, "arrays"_a, "gate"_a);
  nb::class_<BlockHandle>(m, "BlockShape")
      .def(nb::init<>())
      .def("norms", [](BlockHandle& b, const NormShape& before, const NormShape& after) {
        b.shape->before = before, b.shape->after = after;
      }, "before"_a.none(), "after"_a.none())
      .def("attention", &set_attention, "heads"_a, "kv_heads"_a, "head_dim"_a, "scale"_a, "cap"_a, "head_norms"_a,
           "sinks"_a, "rope"_a.none(), "linears"_a)
      .def("mamba", &set_mamba, "heads"_a, "head_dim"_a, "groups"_a, "state"_a, "width"_a, "bounds"_a, "conv_bias"_a,
           "norm"_a.none(), "linears"_a)
      .def("mlp", &set_mlp, "act"_a, "linears"_a, "before"_a.none(), "after"_a.none())
      .def("experts", &set_experts, "route"_a, "scored"_a, "act"_a, "linears"_a, "before"_a.none(), "after"_a.none())
      .def("copy", [](const BlockHandle& b) { return BlockHandle{std::make_shared<BlockShape>(*b.shape)}; });
  m.def("block", &run_block, "block"_a, "x"_a, "arrays"_a, "keys"_a, "values"_a, "start"_a, "first"_a, "offset"_a,
        "mask"_a.none());
  nb::class_<StackHandle>(m, "Stack");
  m.def("make_stack", &stack_of, "blocks"_a, "arrays"_a);
  m.def("stack", &run_stack, "stack"_a, "x"_a, "memories"_a, "places"_a, "offset"_a, "masks"_a);
  m.def("unchanged", &unchanged, "held"_a);
  m.def("route", &route, "logits"_a, "bias"_a.none(), "k"_a, "softmax"_a, "groups"_a, "keep_groups"_a, "group_best"_a,
        "normalise"_a, "scale"_a, "eps"_a);
  m.attr("mlx_version") = compiled_version();
  m.def("choose", &choose, "forced"_a);
  m.def("threads", &pool_size);
  m.def("read", &op_read, "path"_a, "tensors"_a);
  m.def("settle", &op_settle, "arrays"_a);
  m.def("takes_bytes", [] { return kernels().takes_bytes; });
  m.def("rms_norm", &op_rms_norm, "x"_a, "weight"_a.none(), "eps"_a);
  m.def("layer_norm", &op_layer_norm, "x"_a, "weight"_a.none(), "bias"_a.none(), "eps"_a);
  m.def("argmax", &op_argmax, "x"_a);
  m.def("silu", &op_silu, "x"_a);
  m.def("relu2", &op_relu2, "x"_a);
  m.def("swiglu", &op_swiglu, "gate"_a, "up"_a);
  m.def("geglu", &op_geglu, "gate"_a, "up"_a);
  m.def("gelu", &op_gelu, "x"_a);
  m.def("gelu_tanh", &op_gelu_tanh, "x"_a);
  m.def("quick_gelu", &op_quick_gelu, "x"_a);
  m.def("linear", &op_linear, "x"_a, "weight"_a, "bias"_a = nb::none());
  m.def("matmul", &op_matmul, "a"_a, "b"_a);
  m.def("rope", &op_rope, "x"_a, "dims"_a, nb::kw_only(), "traditional"_a = false, "base"_a.none() = 10000.0f,
        "scale"_a = 1.0f, "offset"_a = 0, "freqs"_a = nb::none());
  m.def("attention", &op_attention, "q"_a, "k"_a, "v"_a, nb::kw_only(), "scale"_a, "mask"_a = nb::none(),
        "sinks"_a = nb::none(), "cap"_a = nb::none());
  m.def("packed_attention", &op_packed_attention, "q"_a, "k"_a, "v"_a, nb::kw_only(), "group_size"_a, "bits"_a, "scale"_a,
        "mask"_a = nb::none(), "sinks"_a = nb::none(), "cap"_a = nb::none());
  m.def("quantized_matmul", &op_quantized_matmul, "x"_a, "w"_a, "scales"_a, "biases"_a = nb::none(), nb::kw_only(),
        "transpose"_a = true, "group_size"_a = nb::none(), "bits"_a = nb::none(), "mode"_a = "affine");
  m.def("quantized_linear", &op_quantized_linear, "x"_a, "w"_a, "scales"_a, "biases"_a = nb::none(),
        "bias"_a = nb::none(), nb::kw_only(), "group_size"_a = nb::none(), "bits"_a = nb::none(), "mode"_a = "affine",
        "int8"_a = false);
  m.def("quantized_embedding", &op_quantized_embedding, "indices"_a, "w"_a, "scales"_a, "biases"_a = nb::none(),
        nb::kw_only(), "group_size"_a = nb::none(), "bits"_a = nb::none(), "mode"_a = "affine", "dtype"_a = nb::none());
  m.def("gather_qmm", &op_gather_qmm, "x"_a, "w"_a, "scales"_a, "biases"_a = nb::none(), nb::kw_only(),
        "lhs_indices"_a = nb::none(), "rhs_indices"_a = nb::none(), "transpose"_a = true, "group_size"_a = nb::none(),
        "bits"_a = nb::none(), "mode"_a = "affine", "global_scale"_a = nb::none(), "sorted_indices"_a = false);
  m.def("gather_mm", &op_gather_mm, "x"_a, "w"_a, nb::kw_only(), "lhs_indices"_a = nb::none(),
        "rhs_indices"_a = nb::none(), "sorted_indices"_a = false);
  m.def("conv2d", &op_conv2d, "x"_a, "weight"_a, "bias"_a = nb::none(), nb::kw_only(), "stride"_a = std::pair(1, 1),
        "padding"_a = std::pair(std::pair(0, 0), std::pair(0, 0)), "dilation"_a = std::pair(1, 1), "groups"_a = 1);
  m.def("causal_conv", &op_causal_conv, "x"_a, "weight"_a, "bias"_a = nb::none());
  m.def("selective_scan", &op_selective_scan, "x"_a, "dt"_a, "a"_a, "b"_a, "c"_a, "state"_a = nb::none());
  m.def("ssm_scan", &op_ssm_scan, "x"_a, "dt"_a, "a"_a, "b"_a, "c"_a, "state"_a = nb::none());
  m.def("delta_scan", &op_delta_scan, "q"_a, "k"_a, "v"_a, "g"_a, "beta"_a, "state"_a = nb::none());
}
