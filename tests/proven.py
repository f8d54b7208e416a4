"""What the parity matrices found, gathered while they run and written to registries/proven.toml with ``--proven``."""

import tomllib
from pathlib import Path

from mlxlm.cache import CompositeCache, RecurrentCache

FILE = Path(__file__).parents[1] / "registries" / "proven.toml"
HEADER = "# What the parity matrices found, by type. Made by: pytest tests/parity tests/vlm --proven\n"
found: dict[tuple[str, str], dict] = {}


def is_recurrent(caches) -> bool:
    """Whether any of a model's caches, also of one of several in a layer, holds a recurrent state."""
    return any(is_recurrent(c.parts) if isinstance(c, CompositeCache) else isinstance(c, RecurrentCache)
               for c in caches)  # fmt: skip


def note(table: str, model_type: str, variant: str, error: float, reference: str, recurrent: bool = False) -> None:
    """``table`` is text, vision, or halves: vision-language checkpoints loaded as text models.

    ``error`` is the largest one of a variant in one test, as a part of the reference's spread.
    """
    row = found.setdefault((table, model_type), {
        "variants": [], "error": 0.0, "reference": reference, "recurrent": False})  # fmt: skip
    row["variants"] = sorted({*row["variants"], variant})
    row["error"] = max(row["error"], float(error))
    row["recurrent"] |= recurrent


def write(file: Path = FILE) -> None:
    """The file with what was found; the rows of types that didn't run stay as they were."""
    tables = tomllib.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    for (table, model_type), row in found.items():
        tables.setdefault(table, {})[model_type] = row
    lines = [HEADER]
    for table in sorted(tables):
        for model_type, row in sorted(tables[table].items()):
            variants = ", ".join(f'"{v}"' for v in row["variants"])
            lines.append(f'[{table}."{model_type}"]\nvariants = [{variants}]\nerror = {row["error"]:.0e}\n'
                         f'reference = "{row["reference"]}"\nrecurrent = {str(row["recurrent"]).lower()}\n')
    file.write_text("\n".join(lines), encoding="utf-8")
