"""The package's face: nothing heavy is imported before it is used, and names that are modules too stay functions."""
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mlxlm

ROOT = Path(__file__).resolve().parents[2]


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_package_imports_nothing_else():
    heavy = ["mlx", "mlx_lm", "transformers", "torch", "huggingface_hub", "numpy", "tokenizers", "jinja2", "click"]
    assert python(f"import sys, mlxlm; print([m for m in {heavy} if m in sys.modules])") == "[]"
    assert python("import sys, mlxlm; print([m for m in sys.modules if m.startswith('mlxlm.')])") == "[]"


def test_generation_needs_neither_transformers_nor_torch():
    heavy = ["mlx_lm", "transformers", "torch", "huggingface_hub"]
    code = f"import sys, mlxlm; mlxlm.generate; print([m for m in {heavy} if m in sys.modules])"
    assert python(code) == "[]"


@pytest.mark.parametrize("first", ["", "import mlxlm.generate", "from mlxlm.generate import loop",
                                   "from mlxlm import generate", "import mlxlm; mlxlm.generate"])
def test_generate_is_the_function_whatever_was_imported_first(first):
    code = f"{first}\nimport mlxlm\nfrom mlxlm import generate\nfrom mlxlm.generate import generate as own\n"
    code += "import mlxlm.generate.stream\nprint(mlxlm.generate is generate is own, callable(generate))"
    assert python(code) == "True True"


def test_a_test_may_replace_the_function(monkeypatch):
    kept = mlxlm.generate
    monkeypatch.setattr(mlxlm, "generate", 5)
    assert mlxlm.generate == 5
    monkeypatch.undo()
    assert mlxlm.generate is kept


def test_unknown_names_are_attribute_errors_and_known_ones_are_listed():
    with pytest.raises(AttributeError, match="module 'mlxlm' has no attribute 'genrate'"):
        _ = mlxlm.genrate
    assert set(mlxlm.__all__) <= set(dir(mlxlm))


def test_the_version_is_the_packages():
    text = (ROOT / "pyproject.toml").read_text()
    assert re.search(r'^version = "(.+)"$', text, re.M)[1] == mlxlm.__version__
