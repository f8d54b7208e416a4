"""Perplexity and divergence of one model at several bits, by this package's convert and by mlx-lm's, into a page.

    python scripts/quality.py --write

The source's weights become bfloat16 first; each conversion is made from those and measured by this package.
"""

import argparse
import contextlib
import io
import math
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from mlxlm import load
from mlxlm.checkpoint.safetensors import select
from mlxlm.convert import Recipe, Setting, convert
from mlxlm.convert.measure import quality

PAGE = Path(__file__).resolve().parents[1] / "docs" / "conversion.md"
START, END = "<!-- quality: made by scripts/quality.py -->", "<!-- quality ends -->"
BITS = (8, 6, 5, 4, 3)


@dataclass(frozen=True)
class Row:
    name: str
    bits_per_weight: float
    perplexity: float
    divergence: float
    agreement: float

    def __str__(self) -> str:
        return (f"| {self.name} | {self.bits_per_weight:.2f} | {self.perplexity:.3f} | {self.divergence:.5f} | "
                f"{self.agreement:.1%} |")


class Bench:
    """Conversions of one bfloat16 folder, measured beside it."""

    def __init__(self, source: str, room: Path):
        self.room, self.plain = room, room / "bf16"
        self.weights = convert(source, self.plain, dequantized=True, dtype="bfloat16").parameters
        self.model, self.tokenizer = load(self.plain)

    def row(self, name: str, folder: Path) -> Row:
        size = sum(path.stat().st_size for path in select(folder)[0])
        found = quality(load(folder)[0], self.tokenizer, self.model)
        print(row := Row(name, size * 8 / self.weights, found.perplexity, found.divergence or 0.0,
                         found.agreement or 0.0), flush=True)
        return row

    def ours(self, name: str, recipe: Recipe, **arguments) -> Row:
        folder = self.room / "ours"
        convert(self.plain, folder, recipe=recipe, **arguments)
        try:
            return self.row(f"{name}, mlxlm", folder)
        finally:
            shutil.rmtree(folder)

    def theirs(self, name: str, bits: int, recipe: str | None = None) -> Row:
        from mlx_lm.convert import convert as convert_theirs

        folder = self.room / "theirs"
        with contextlib.redirect_stdout(io.StringIO()):
            convert_theirs(str(self.plain), str(folder), quantize=True, q_bits=bits, q_group_size=64,
                           quant_predicate=recipe)
        try:
            return self.row(f"{name}, mlx-lm", folder)
        finally:
            shutil.rmtree(folder)


def measured(source: str, room: Path) -> list[Row]:
    bench = Bench(source, room)
    rows = [bench.row("bfloat16", bench.plain)]
    for bits in BITS:
        rows += [bench.theirs(f"{bits} bits", bits), bench.ours(f"{bits} bits", Recipe(Setting(bits), "uniform"))]
        if bits in (4, 3):
            rows += [bench.theirs(f"{bits} bits, mixed", bits, f"mixed_{bits}_6"),
                     bench.ours(f"{bits} bits, mixed", Recipe(Setting(bits)))]
            # What measurement makes of the bytes that mlx-lm's two recipes take.
            for kind, row in (("uniform", rows[-4]), ("mixed", rows[-2])):
                rows.append(bench.ours(f"as many as {bits} bits, {kind}, by measurement", Recipe(Setting(bits)),
                                       bits_per_weight=row.bits_per_weight))
    return rows


def verdict(rows: list[Row]) -> str:
    """What the rows say of the two at the same bits, whichever way it comes out."""
    pairs: dict[str, dict[str, Row]] = {}
    for row in rows[1:]:
        name, _, by = row.name.rpartition(", ")
        pairs.setdefault(name, {})[by] = row
    same = {name: pair for name, pair in pairs.items() if len(pair) == 2
            and abs(pair["mlxlm"].bits_per_weight - pair["mlx-lm"].bits_per_weight) < 0.01}
    said = []
    for what, value in (("divergence", lambda row: row.divergence), ("perplexity", lambda row: row.perplexity)):
        worse = [name for name, pair in same.items() if value(pair["mlxlm"]) > value(pair["mlx-lm"])]
        said.append(f"{what}: not worse in {len(same) - len(worse)} of {len(same)}"
                    + (f" (worse: {', '.join(worse)})" if worse else ""))
    return f"At the same bits per weight mlxlm's conversion, beside mlx-lm's, is in {'; in '.join(said)}."


def table(rows: list[Row]) -> str:
    head = ["| | bits per weight | perplexity | KL divergence | same first token |", "|---|---|---|---|---|"]
    return "\n".join([START, "", *head, *map(str, rows), "", verdict(rows), "", END])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", default="smolLM2_135M")
    parser.add_argument("--write", action="store_true", help="put the table into docs/conversion.md")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as room:
        rows = measured(arguments.source, Path(room))
    if not all(math.isfinite(row.perplexity) for row in rows):
        raise SystemExit("a perplexity isn't finite")
    text = table(rows)
    print(text)
    if arguments.write:
        page = PAGE.read_text(encoding="utf-8")
        new = re.sub(re.escape(START) + ".*?" + re.escape(END), lambda _: text, page, flags=re.S)
        PAGE.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
