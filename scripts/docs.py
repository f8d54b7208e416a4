"""Writes docs/models.md from the registries and what the parity matrices found."""

from pathlib import Path

from mlxlm.proven import page

if __name__ == "__main__":
    Path(__file__).resolve().parents[1].joinpath("docs", "models.md").write_text(page(), encoding="utf-8")
