// The extension module `_cpu`: the operations by the names that mlxlm.kernels.ops gives them.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/variant.h>

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

NB_MODULE(_cpu, m) {
  m.attr("mlx_version") = compiled_version();
  m.def("choose", &choose, "forced"_a);
  m.def("threads", &pool_size);
  m.def("rms_norm", &op_rms_norm, "x"_a, "weight"_a.none(), "eps"_a);
  m.def("layer_norm", &op_layer_norm, "x"_a, "weight"_a.none(), "bias"_a.none(), "eps"_a);
  m.def("swiglu", &op_swiglu, "gate"_a, "up"_a);
  m.def("geglu", &op_geglu, "gate"_a, "up"_a);
  m.def("linear", &op_linear, "x"_a, "weight"_a, "bias"_a = nb::none());
  m.def("rope", &op_rope, "x"_a, "dims"_a, nb::kw_only(), "traditional"_a = false, "base"_a.none() = 10000.0f,
        "scale"_a = 1.0f, "offset"_a = 0, "freqs"_a = nb::none());
  m.def("attention", &op_attention, "q"_a, "k"_a, "v"_a, nb::kw_only(), "scale"_a, "mask"_a = nb::none(),
        "sinks"_a = nb::none());
  m.def("quantized_matmul", &op_quantized_matmul, "x"_a, "w"_a, "scales"_a, "biases"_a = nb::none(), nb::kw_only(),
        "transpose"_a = true, "group_size"_a = nb::none(), "bits"_a = nb::none(), "mode"_a = "affine");
  m.def("quantized_linear", &op_quantized_linear, "x"_a, "w"_a, "scales"_a, "biases"_a = nb::none(),
        "bias"_a = nb::none(), nb::kw_only(), "group_size"_a = nb::none(), "bits"_a = nb::none(), "mode"_a = "affine");
  m.def("quantized_embedding", &op_quantized_embedding, "indices"_a, "w"_a, "scales"_a, "biases"_a = nb::none(),
        nb::kw_only(), "group_size"_a = nb::none(), "bits"_a = nb::none(), "mode"_a = "affine", "dtype"_a = nb::none());
  m.def("gather_qmm", &op_gather_qmm, "x"_a, "w"_a, "scales"_a, "biases"_a = nb::none(), nb::kw_only(),
        "lhs_indices"_a = nb::none(), "rhs_indices"_a = nb::none(), "transpose"_a = true, "group_size"_a = nb::none(),
        "bits"_a = nb::none(), "mode"_a = "affine", "global_scale"_a = nb::none(), "sorted_indices"_a = false);
  m.def("gather_mm", &op_gather_mm, "x"_a, "w"_a, nb::kw_only(), "lhs_indices"_a = nb::none(),
        "rhs_indices"_a = nb::none(), "sorted_indices"_a = false);
  m.def("ssm_scan", &op_ssm_scan, "x"_a, "dt"_a, "a"_a, "b"_a, "c"_a, "state"_a = nb::none());
  m.def("delta_scan", &op_delta_scan, "q"_a, "k"_a, "v"_a, "g"_a, "beta"_a, "state"_a = nb::none());
}
