"""docs/models.md is what the registries and the recorded results make of it; every native type is in it."""

import tomllib

import proven as recording
from parity.cases import CASES

from mlxlm import LLMTypeRegistry, VLMTypeRegistry
from mlxlm.data import data_file
from mlxlm.proven import page, rows


def test_the_page_is_up_to_date():
    made = (recording.FILE.parents[1] / "docs" / "models.md").read_text(encoding="utf-8")
    assert made == page(), "run scripts/docs.py"


def test_every_native_text_type_was_proven():
    found = {row["type"]: row for row in rows()["text"]}
    entries = [e for e in LLMTypeRegistry.shared.entries() if e.kind == "native"]
    assert set(found) == {e.model_type for e in entries}
    # Halves of vision-language models are proven with them, where no row of the text matrix has them.
    halves = {e.module for e in entries if e.model_type in VLMTypeRegistry.shared}
    alone = [e.model_type for e in entries if e.module not in halves or found[e.model_type]["variants"]]
    for row in (found[name] for name in alone):
        assert row["variants"] and row["largest error"], row["type"]
        assert float(row["largest error"]) <= 1e-4


def test_the_results_are_those_of_the_matrix_that_is_there():
    recorded = tomllib.loads(data_file("proven.toml").read_text(encoding="utf-8"))["text"]
    matrix: dict[str, set[str]] = {}
    for case in CASES:
        matrix.setdefault(case.model_type, set()).add(case.variant)
    assert {name: set(row["variants"]) for name, row in recorded.items()} == matrix


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
