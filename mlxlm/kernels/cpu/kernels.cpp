// All kernels for one instruction set: the build compiles this file once for each, with MLXLM_LEVEL and its flags.
#include "attention_decode.h"
#include "attention_tiled.h"
#include "columns.h"
#include "convolution.h"
#include "dense.h"
#include "mamba.h"
#include "pointwise.h"
#include "quantized.h"
#include "recurrent.h"
#include "table.h"

namespace {

void attention(const Attention& a) {
  by_type(a.type, [&]<class T>(T*) {
    by_rows<T>(a, [&]<class Rows>(Rows*) {
      // Fewer queries than half of a tile's lanes.
      if (a.Hq / a.Hk * a.L <= greater(8, WIDE / 2)) attend_few<T, Rows>(a);
      else attend_many<T, Rows>(a);
    });
  });
}

#if MLXLM_LEVEL == 513
constexpr const char* name = "avx512bf16";
#elif MLXLM_LEVEL == 512
constexpr const char* name = "avx512";
#elif MLXLM_LEVEL == 2
constexpr const char* name = "avx2";
#else
constexpr const char* name = "scalar";
#endif

constexpr Table table = {name,      quantized_matmul, few_rows,   dense_matmul, quantized_rows, rms_norm,
                         layer_norm, gated,           squared_relu, add,        argmax,         rope,
                         attention,  causal_conv, selective_scan, state_space, delta_rule,  mamba_step, to_f32,
                         from_f32,   quantized_by_columns, dense_by_columns, conv2d, MLXLM_LEVEL >= 2};

}  // namespace

namespace mlxlm {
#if MLXLM_LEVEL == 513
const Table* table_avx512bf16() { return &table; }
#elif MLXLM_LEVEL == 512
const Table* table_avx512() { return &table; }
#elif MLXLM_LEVEL == 2
const Table* table_avx2() { return &table; }
#else
const Table* table_scalar() { return &table; }
#endif
}  // namespace mlxlm
