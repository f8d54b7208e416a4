// The C-like face of the kernels: one table of functions for each instruction set, of which one is in force.
#pragma once
#include "types.h"

namespace mlxlm {

struct Table {
  const char* name;
  void (*quantized_matmul)(const QuantizedMatrix&, const MatmulRows&);
  void (*few_rows)(const FewRows&);
  void (*dense_matmul)(const DenseMatrix&, const MatmulRows&);
  // rows[i] names the table's row; out is (count, K) of `type`.
  void (*quantized_rows)(const QuantizedMatrix&, const int64_t* rows, int64_t count, Dtype type, void* out);
  // weight and bias are (D,) in f32, or null.
  void (*rms_norm)(Dtype, const void* x, const float* weight, float eps, void* out, Dtype out_type, int64_t rows, int D);
  void (*layer_norm)(Dtype, const void* x, const float* weight, const float* bias, float eps, void* out, Dtype out_type,
                     int64_t rows, int D);
  // `up` is null where the opened gate is all that is asked for.
  void (*gated)(Dtype, Gate, const void* gate, const void* up, void* out, int64_t count);
  void (*squared_relu)(Dtype, void* x, int64_t count);
  void (*add)(Dtype, const void* a, const void* b, void* out, int64_t count);
  // The place of each row's largest number, the first among equals; NaN is passed over.
  void (*argmax)(Dtype, const void* x, uint32_t* out, int64_t rows, int D);
  void (*rope)(const Rope&);
  void (*attention)(const Attention&);
  void (*causal_conv)(const Convolution&);
  void (*selective_scan)(const SelectiveScan&);
  void (*state_space)(const StateSpace&);
  void (*delta_rule)(const DeltaRule&);
  void (*mamba_step)(const MambaStep&);
  void (*to_f32)(Dtype, const void* x, float* out, int64_t count);
  void (*from_f32)(Dtype, const float* x, void* out, int64_t count);
  // x (M, w.N) by w as it is stored, (w.N, w.K), instead of by its transpose.
  void (*quantized_by_columns)(const QuantizedMatrix&, const MatmulRows&);
  void (*dense_by_columns)(const DenseMatrix&, const MatmulRows&);
  void (*conv2d)(const Convolution2d&);
  bool takes_bytes;  // whether MatmulRows::in_bytes makes a difference
};

const Table* table_scalar();
const Table* table_avx2();    // null where the build has no such code
const Table* table_avx512();      // null where the build has no such code
const Table* table_avx512bf16();  // null where the build has no such code

// The table in force. `forced` is "" or a name; a set that the machine lacks is refused with
// null. The first successful call decides for the process.
const Table* choose_table(const char* forced);
const Table& kernels();

}  // namespace mlxlm
