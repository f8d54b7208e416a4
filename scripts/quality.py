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
from mlxlm.convert.measure import Tokens, by_token

PAGE = Path(__file__).resolve().parents[1] / "docs" / "conversion.md"
START, END = "<!-- quality: made by scripts/quality.py -->", "<!-- quality ends -->"
BITS = (8, 6, 5, 4, 3)


@dataclass(frozen=True)
class Row:
    name: str
    bits_per_weight: float
    tokens: Tokens

    @property
    def divergence(self) -> float:
        return 0.0 if self.tokens.divergences is None else self.tokens.divergences.mean()

    def __str__(self) -> str:
        agreed = 1.0 if self.tokens.agreed is None else self.tokens.agreed.mean()
        return (f"| {self.name} | {self.bits_per_weight:.2f} | {math.exp(self.tokens.losses.mean()):.3f} | "
                f"{self.divergence:.5f} | {agreed:.1%} |")


class Remembered:
    """A model whose logits for what it was fed before are kept."""

    def __init__(self, model):
        self._model, self._known = model, {}

    def __call__(self, fed):
        key = tuple(fed.flatten().tolist())
        if key not in self._known:
            self._known[key] = self._model(fed)
        return self._known[key]


class Bench:
    """Conversions of one bfloat16 folder, measured beside it."""

    def __init__(self, source: str, room: Path):
        self.room, self.plain = room, room / "bf16"
        self.weights = convert(source, self.plain, dequantized=True, dtype="bfloat16").parameters
        model, self.tokenizer = load(self.plain)
        self.model = Remembered(model)

    def row(self, name: str, folder: Path) -> Row:
        size = sum(path.stat().st_size for path in select(folder)[0])
        model = self.model if folder == self.plain else load(folder)[0]
        print(row := Row(name, size * 8 / self.weights, by_token(model, self.tokenizer, self.model)), flush=True)
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
            rows.append(bench.ours(f"as many as {bits} bits, mixed, by measurement", Recipe(Setting(bits)),
                                   bits_per_weight=rows[-2].bits_per_weight))
    return rows


def compared(rows: list[Row]) -> list[str]:
    """The two at the same bits, token by token: how much likelier ours holds the text, and how much nearer it is."""
    theirs = {row.bits_per_weight: row for row in rows if row.name.endswith(", mlx-lm")}
    said = ["| | loss, ours less mlx-lm's | KL divergence, ours less mlx-lm's |", "|---|---|---|"]
    for row in rows:
        other = next((o for size, o in theirs.items() if abs(size / row.bits_per_weight - 1) < 0.01), None)
        if row.name.endswith(", mlxlm") and other is not None:
            said.append(f"| {row.name.removesuffix(', mlxlm')} | {_difference(row.tokens.losses, other.tokens.losses)} "
                        f"| {_difference(row.tokens.divergences, other.tokens.divergences)} |")
    return said


def _difference(ours, theirs) -> str:
    """The mean over the tokens, and its standard error."""
    each = ours - theirs
    return f"{each.mean():+.4f} ± {each.std(ddof=1) / math.sqrt(len(each)):.4f}"


def table(rows: list[Row]) -> str:
    head = ["| | bits per weight | perplexity | KL divergence | same first token |", "|---|---|---|---|---|"]
    return "\n".join([START, "", *head, *map(str, rows), "",
                      f"Token by token at the same size, in nats, the mean of {len(rows[0].tokens.losses):,} tokens "
                      "and its standard error:", "", *compared(rows), "", END])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", default="smolLM2_135M")
    parser.add_argument("--write", action="store_true", help="put the table into docs/conversion.md")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as room:
        rows = measured(arguments.source, Path(room))
    if not all(math.isfinite(row.tokens.losses.mean()) for row in rows):
        raise SystemExit("a perplexity isn't finite")
    text = table(rows)
    print(text)
    if arguments.write:
        page = PAGE.read_text(encoding="utf-8")
        new = re.sub(re.escape(START) + ".*?" + re.escape(END), lambda _: text, page, flags=re.S)
        PAGE.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
