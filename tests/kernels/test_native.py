"""The kernels without MLX, by a driver in C++: under sanitizers, and on processors that this machine emulates."""

import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from mlxlm.kernels import in_force

NATIVE = Path(__file__).parent / "native"
LEVELS = {"scalar": "0", "avx2": "2", "avx512": "512", "avx512bf16": "513"}
SANITIZERS = {
    "address": ["-fsanitize=address,undefined", "-fno-sanitize=alignment", "-fno-sanitize-recover=all"],
    "thread": ["-fsanitize=thread"],
}


def built(tmp_path: Path, level: str, options: list[str], compiler: str = "g++") -> Path:
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler}")
    driver = tmp_path / "driver"
    subprocess.run([str(NATIVE / "build.sh"), str(driver), level, *options], check=True, timeout=600,
                   env={**os.environ, "CXX": compiler})
    return driver


def run(command: list[str]) -> str:
    environment = {**os.environ, "MLXLM_THREADS": "3"}
    done = subprocess.run(command, env=environment, timeout=600, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert ", 0 wrong" in done.stdout
    return done.stdout


@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_sanitizers_find_nothing(sanitizer, tmp_path):
    """No read or write out of bounds, nothing undefined, no race, with the best instructions of this machine."""
    best = in_force()["instruction_set"]
    driver = built(tmp_path, LEVELS[best], ["-O0", *SANITIZERS[sanitizer]])
    assert best in run([str(driver), best, "20"])


def test_another_processor(tmp_path):
    """The portable code on ARM, whose vectors the compiler makes NEON's."""
    if platform.machine() != "x86_64":
        pytest.skip("for an x86-64 machine with a cross compiler")
    if shutil.which("qemu-aarch64") is None:
        pytest.skip("no qemu-aarch64")
    driver = built(tmp_path, "0", ["-O1", "-static"], "aarch64-linux-gnu-g++")
    assert "scalar" in run(["qemu-aarch64", str(driver), "scalar", "4"])
