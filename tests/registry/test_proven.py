"""docs/models.md is what the registries and the recorded results make of it; every native type is in it."""

import tomllib

import proven as recording
import pytest
from parity.cases import CASES
from vlm.cases import CASES as VISION_CASES

from mlxlm import LLMTypeRegistry, VLMTypeRegistry
from mlxlm.data import data_file
from mlxlm.proven import page, rows

RECORDED = tomllib.loads(data_file("proven.toml").read_text(encoding="utf-8"))
VISION = RECORDED["vision"]


def test_the_page_is_up_to_date():
    made = (recording.FILE.parents[1] / "docs" / "models.md").read_text(encoding="utf-8")
    assert made == page(), "run scripts/docs.py"


@pytest.mark.parametrize("use, registry", [("text", LLMTypeRegistry), ("vision", VLMTypeRegistry)])
def test_every_native_type_was_proven(use, registry):
    found = {row["type"]: row for row in rows()[use]}
    assert set(found) == {e.model_type for e in registry.shared.entries() if e.kind == "native"}
    for name, row in found.items():
        assert row["variants"] and row["reference"] and float(row["largest error"]) <= 1e-4, name
        half = row["variants"] == "text half: see Vision"
        assert not half or found.keys() & VISION.keys() & {e.model_type for e in alike(registry, name)}, name


def alike(registry, name):
    """The entries that the same module builds."""
    entries = {e.model_type: e for e in registry.shared.entries()}
    return [e for e in entries.values() if e.module == entries[name].module]


@pytest.mark.parametrize("table, cases", [("text", CASES), ("vision", VISION_CASES)])
def test_the_results_are_those_of_the_matrix_that_is_there(table, cases):
    matrix: dict[str, set[str]] = {}
    for case in cases:
        matrix.setdefault(case.model_type, set()).add(case.variant)
    assert {name: set(row["variants"]) for name, row in RECORDED[table].items()} == matrix


def test_text_halves_were_measured_with_every_variant():
    halves = {name: row["variants"] for name, row in RECORDED["halves"].items()}
    assert halves == {name: row["variants"] for name, row in RECORDED["vision"].items()}


def test_results_are_gathered_and_other_tables_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(recording, "found", {})
    file = tmp_path / "proven.toml"
    recording.note("vision", "a", "one", 2e-6, "transformers")
    recording.write(file)
    recording.found.clear()
    recording.note("text", "b", "one", 3e-6, "transformers", recurrent=True)
    recording.note("text", "b", "two", 1e-6, "transformers")
    recording.write(file)
    written = tomllib.loads(file.read_text())
    assert written["vision"]["a"]["error"] == 2e-6
    assert written["text"]["b"] == {"variants": ["one", "two"], "error": 3e-6, "reference": "transformers",
                                    "recurrent": True}
