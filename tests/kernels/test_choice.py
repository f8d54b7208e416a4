"""Which kernels are in force, what turns them off, and what the user is told."""

import os
import subprocess
import sys
from types import ModuleType

import mlx.core as mx
import pytest

from mlxlm.errors import UsageError
from mlxlm.kernels import choice, in_force, ops, plain


def in_force_with(wish: str):
    code = (
        "from mlxlm.kernels import in_force, ops, plain\n"
        "print(in_force()['native'], in_force()['instruction_set'], ops.rms_norm is plain.rms_norm)"
    )
    environment = {**os.environ, choice.VARIABLE: wish}
    return subprocess.run([sys.executable, "-c", code], env=environment, timeout=60, capture_output=True, text=True,
                          check=False)


def test_in_force_here():
    assert in_force()["native"] is True
    assert in_force()["instruction_set"] in choice.INSTRUCTION_SETS
    assert ops.attention is not plain.attention


def test_off():
    assert in_force_with("off").stdout.split() == ["False", "None", "True"]


def test_forced():
    assert in_force_with("scalar").stdout.split() == ["True", "scalar", "False"]


def test_an_unknown_wish_is_an_error(monkeypatch):
    monkeypatch.setenv(choice.VARIABLE, "sse9")
    with pytest.raises(UsageError, match="sse9"):
        choice.choose()


def extension(**offered) -> ModuleType:
    module = ModuleType("_cpu")
    vars(module).update(offered)
    return module


def test_an_instruction_set_the_machine_lacks_is_an_error():
    running = mx.__version__  # pyright: ignore[reportAttributeAccessIssue]
    offered = dict.fromkeys(choice.OPERATIONS)
    module = extension(mlx_version=running, choose=lambda wish: None, **offered)
    with pytest.raises(UsageError, match="avx512"):
        choice._checked(module, "avx512")


def test_another_mlx_turns_them_off_with_one_warning():
    module = extension(mlx_version="0.1.2")
    with pytest.warns(RuntimeWarning, match=r"0\.1\.2") as warned:
        result = choice._checked(module, "")
    assert result.module is None and "0.1.2" in result.reason
    assert len(warned) == 1


def test_an_extension_older_than_the_source_is_not_used():
    running = mx.__version__  # pyright: ignore[reportAttributeAccessIssue]
    module = extension(mlx_version=running, choose=lambda wish: "scalar", attention=None)
    with pytest.warns(RuntimeWarning, match="older source"):
        assert choice._checked(module, "").module is None


def test_import_is_light():
    """`in_force` needs no model code: neither numpy-heavy packages nor mlx.nn."""
    code = "import sys, mlxlm.kernels.ops; print('mlx.nn' in sys.modules, 'transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], timeout=60, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
