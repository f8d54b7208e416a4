#!/usr/bin/env bash
# Builds the driver: build.sh OUTPUT LEVEL [g++ option ...]; LEVEL is 0, 2, 512 or 513, as in CMakeLists.txt. CXX names the
# compiler, which may be one for another processor.
set -euo pipefail
out=$1 level=$2
shift 2
here=$(cd "$(dirname "$0")" && pwd)
cpu=$here/../../../mlxlm/kernels/cpu
avx2="-mavx2 -mfma -mf16c"
avx512="$avx2 -mavx512f -mavx512bw -mavx512vl -mavx512dq -mprefer-vector-width=512"
case $level in
  0) flags="" have="" ;;
  2) flags=$avx2 have=-DMLXLM_AVX2 ;;
  512) flags=$avx512 have=-DMLXLM_AVX512 ;;
  513) flags="$avx512 -mavx512bf16 -mavx512vbmi -mavx512vnni" have=-DMLXLM_AVX512BF16 ;;
  *) echo "no such level: $level" >&2; exit 2 ;;
esac
cxx=${CXX:-g++}
common="-std=c++20 -g1 -ffp-contract=fast -fno-math-errno -fno-trapping-math -Wno-uninitialized -Wno-maybe-uninitialized -Wno-psabi -I$cpu"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
$cxx $common "$@" $flags -DMLXLM_LEVEL=$level -c "$cpu/kernels.cpp" -o "$work/kernels.o"
if [ "$level" = 0 ]; then
  : > "$work/none.cpp"
else  # only the level asked for
  echo 'namespace mlxlm { struct Table; const Table* table_scalar() { return nullptr; } }' > "$work/none.cpp"
fi
$cxx $common "$@" $have "$cpu/level.cpp" "$cpu/pool.cpp" "$here/driver.cpp" "$work/none.cpp" "$work/kernels.o" -o "$out" -lpthread
