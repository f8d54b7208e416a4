"""Every instruction set that this machine has passes the same tests: each is forced in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlxlm.kernels import in_force
from mlxlm.kernels.choice import INSTRUCTION_SETS, VARIABLE

HERE = Path(__file__).parent
FILES = ("test_quantized.py", "test_linear.py", "test_attention.py", "test_rope.py", "test_pointwise.py",
         "test_experts.py", "test_recurrent.py", "test_block.py", "test_convolution.py", "test_matmul.py",
         "test_route.py", "test_rounded_activations.py")



@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
def test_instruction_set(instruction_set):
    best = INSTRUCTION_SETS.index(in_force()["instruction_set"])
    if INSTRUCTION_SETS.index(instruction_set) > best:
        pytest.skip("this machine's processor lacks it")
    environment = {**os.environ, VARIABLE: instruction_set, "MLXLM_KERNEL_EXAMPLES": "15"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *(str(HERE / f) for f in FILES)],
        env=environment, timeout=300, capture_output=True, text=True, check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert "skipped" not in done.stdout
