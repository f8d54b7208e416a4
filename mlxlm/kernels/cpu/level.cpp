// Chooses the instruction set by asking the processor, once.
#include <cstring>

#include "table.h"

namespace mlxlm {

static const Table* chosen = nullptr;

#if !defined(MLXLM_AVX2)
const Table* table_avx2() { return nullptr; }
#endif
#if !defined(MLXLM_AVX512)
const Table* table_avx512() { return nullptr; }
#endif
#if !defined(MLXLM_AVX512BF16)
const Table* table_avx512bf16() { return nullptr; }
#endif

static bool has_avx2() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
#else
  return false;
#endif
}

static bool has_avx512() {
#if defined(__x86_64__)
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
#else
  return false;
#endif
}

static bool has_avx512bf16() {
#if defined(__x86_64__)
  return has_avx512() && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vbmi") &&
         __builtin_cpu_supports("avx512vnni");
#else
  return false;
#endif
}

const Table* choose_table(const char* forced) {
  const Table* best[] = {has_avx512bf16() ? table_avx512bf16() : nullptr,
                         has_avx512() ? table_avx512() : nullptr, has_avx2() ? table_avx2() : nullptr,
                         table_scalar()};
  for (const Table* table : best) {
    if (!table || (*forced && std::strcmp(forced, table->name) != 0)) continue;
    chosen = table;
    return table;
  }
  return nullptr;
}

const Table& kernels() { return *chosen; }

}  // namespace mlxlm
