"""The house rules as tests: floors, circles, sizes, docstrings, errors, and what an import may cost."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "mlxlm"
FILES = sorted(PACKAGE.rglob("*.py"))

FLOORS = (
    {"errors", "data", "files"},
    {"config", "piecewise", "weights", "kernels", "cache", "layers", "names"},
    {"architecture", "decoder", "vlm", "recipe", "per_layer"},
    {"models", "vlms", "vision", "processors"},
    {"configuration", "registry", "fallback", "checkpoint", "sources", "strict", "text", "roles",
     "experts", "memory"},
    {"processor", "load", "draft", "ahead", "adapters"},
    {"tools", "generate", "convert", "info", "proven", "doctor", "bench", "verify"},
    {"chat", "bench_engines"},
    {"cli"},
    {"__main__"},
)
MOST_LINES, MOST_FUNCTION_LINES = 400, 40
# A file or function beyond the limit says why, in a comment such as `# long: one table, a row a type`.
REASON = re.compile(r"#\s*long: \S")
HEAVY = ("transformers", "torch", "mlx_lm", "mlx_vlm", "huggingface_hub", "gguf", "mlx", "rich", "tokenizers", "numpy")


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in FILES}


def imports(path: Path, top_only: bool = False) -> Iterator[str]:
    """The modules of this package that a file imports, at its top or anywhere; not those for type checkers."""
    package = name_of(path) if path.name == "__init__.py" else name_of(path).rpartition(".")[0]
    for node in statements(tree(path), top_only):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            inner = [f"{module}.{alias.name}" for alias in node.names]
            yield from (name for name in inner if name in MODULES)
            if module in MODULES and not all(name in MODULES for name in inner):
                yield module


def statements(node: ast.AST, top_only: bool) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            continue
        if top_only and isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        yield child
        yield from statements(child, top_only)


def floor(module: str) -> int | None:
    part = module.split(".")[1] if "." in module else ""
    return next((level for level, parts in enumerate(FLOORS) if part in parts), None)


def test_every_part_of_the_package_stands_on_a_floor():
    assert {m for m in MODULES if floor(m) is None} == {"mlxlm"}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_nothing_imports_upward(path: Path):
    own = floor(name_of(path))
    above = [other for other in imports(path) if own is not None and (floor(other) or 0) > own]
    assert not above, f"{name_of(path)} imports from a floor above: {above}"


def test_imports_have_no_circles():
    graph = {name: set(imports(path, top_only=True)) - {name} for name, path in MODULES.items()}
    assert circle(graph) is None


def circle(graph: dict[str, set[str]]) -> list[str] | None:
    """One circle of a graph, as the way around it, or None."""
    done: set[str] = set()

    def walk(name: str, way: tuple[str, ...]) -> list[str] | None:
        if name in way:
            return [*way[way.index(name):], name]
        if name in done:
            return None
        found = next(filter(None, (walk(other, (*way, name)) for other in sorted(graph[name]))), None)
        done.add(name)
        return found

    return next(filter(None, (walk(name, ()) for name in sorted(graph))), None)


def test_a_circle_would_be_found():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == ["a", "b", "c", "a"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) is None


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_module_opens_with_a_docstring(path: Path):
    assert ast.get_docstring(tree(path))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_and_functions_are_short_or_say_why_not(path: Path):
    lines = path.read_text(encoding="utf-8").splitlines()
    if len(lines) > MOST_LINES:
        assert any(REASON.search(line) for line in lines[:30]), f"{path.name} has {len(lines)} lines"
    for node in ast.walk(tree(path)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and code_lines(node) > MOST_FUNCTION_LINES:
            own = lines[node.lineno - 1: node.end_lineno]
            assert any(REASON.search(line) for line in own), f"{path.name}: {node.name} has {code_lines(node)} lines"


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """A function's own lines: without its docstring, and without functions inside it, which count for themselves."""
    inner = [node for node in function.body
             if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))]
    if ast.get_docstring(function, clean=False) is not None:
        inner.append(function.body[0])  # type: ignore[arg-type]
    return span(function) - sum(span(node) for node in inner)


def span(node: ast.stmt) -> int:
    return (node.end_lineno or 0) - node.lineno + 1


def families() -> set[str]:
    """The families of the registry's types: the letters that a type begins with (qwen of qwen3_moe)."""
    types = tomllib.loads((ROOT / "registries" / "llm.toml").read_text(encoding="utf-8"))["types"]
    return {re.match(r"[a-z]*", name)[0] for name in types} - {"mamba"}  # type: ignore  # mamba is a layer too


@pytest.mark.parametrize("path", sorted((PACKAGE / "layers").glob("*.py")), ids=name_of)
def test_layers_know_no_model_family(path: Path):
    docstrings = {id(node.body[0].value) for node in ast.walk(tree(path))  # type: ignore[attr-defined]
                  if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node)}
    words: set[str] = set()
    for node in ast.walk(tree(path)):
        text = getattr(node, "id", None) or getattr(node, "attr", None) or getattr(node, "name", None) or \
            getattr(node, "arg", None) or (node.value if isinstance(node, ast.Constant) else None)
        if isinstance(text, str) and id(node) not in docstrings:
            text = text.replace("llama3", "").replace("deepseek_yarn", "")  # rope_types of any family's config.json
            words |= set(re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text).lower()))
    assert words & families() == set()


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_assert_and_no_broad_except(path: Path):
    lines = path.read_text(encoding="utf-8").splitlines()
    for node in ast.walk(tree(path)):
        assert not isinstance(node, ast.Assert), f"{path.name}:{node.lineno}: assert"
        if isinstance(node, ast.ExceptHandler) and is_broad(node):
            passes_on = isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None
            reason = re.search(r"# broad: .{15,}", lines[node.lineno - 1])
            assert passes_on or reason, f"{path.name}:{node.lineno}: a broad except that swallows what it doesn't know"


def is_broad(handler: ast.ExceptHandler) -> bool:
    caught = {n.id for n in ast.walk(handler.type) if isinstance(n, ast.Name)} if handler.type else {"Exception"}
    return bool(caught & {"Exception", "BaseException"})


def loaded(*arguments: str, heavy: tuple[str, ...] = HEAVY) -> set[str]:
    """Which heavy packages are in memory after a line of Python in a process of its own."""
    code = f"import sys; {'; '.join(arguments)}; print(*{{m.partition('.')[0] for m in sys.modules}} & set({heavy!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def test_importing_the_package_imports_nothing_heavy():
    assert loaded("import mlxlm") == set()


def test_help_imports_nothing_heavy():
    assert loaded("from mlxlm.cli.group import run", "run(['--help'])") == set()


def test_loading_needs_none_of_the_slow_packages():
    slow = ("transformers", "torch", "mlx_lm", "mlx_vlm", "huggingface_hub", "rich")
    assert loaded("import mlxlm", "mlxlm.load", "mlxlm.generate", "mlxlm.LLMTypeRegistry.shared.list()",
                  heavy=slow) == set()


def test_test_files_have_names_of_their_own():
    """pytest imports a test file by its bare name where its folder is no package: two of a name can't both be."""
    folders = [path for path in (ROOT / "tests").iterdir() if path.is_dir() and not (path / "__init__.py").exists()]
    names = [path.name for folder in folders for path in folder.glob("*.py") if path.name != "conftest.py"]
    assert {name for name in names if names.count(name) > 1} == set()
