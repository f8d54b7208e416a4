"""`mlxlm bench`: every engine on one file, in turn; what can't be measured says why, and no time is asserted."""

import json

import pytest
from click.testing import CliRunner

from mlxlm import bench
from mlxlm.bench import Row, Spread
from mlxlm.cli.bench import command

pytestmark = pytest.mark.slow  # left to `make test`: `make check` is for every edit


def test_engines_are_measured_on_one_folder(model):
    result = CliRunner().invoke(command, [str(model), "-p", "8,16", "-n", "3", "-b", "1,2", "--trials", "2",
                                          "--compare", "mlx-lm,transformers,llama.cpp", "--json"])
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["rows"]
    assert [(r["engine"], r["prompt_tokens"], r["batch"]) for r in rows[:5:4]] == [("mlxlm", 8, 1), ("mlxlm", 8, 2)]
    assert len(rows) == 16
    for row in rows:
        if row["engine"] == "llama.cpp":
            assert row["left_out"]
        else:
            assert row["left_out"] is None, row
            assert row["prompt_tps"]["least"] <= row["prompt_tps"]["median"] <= row["prompt_tps"]["most"]
            assert row["generation_tps"]["median"] > 0


def test_rounded_activations_are_a_row_of_their_own(model, monkeypatch):
    monkeypatch.setenv("MLXLM_KERNELS", "off")  # where it must say that there is nothing to measure
    result = CliRunner().invoke(command, [str(model), "-p", "9", "-n", "2", "--trials", "1", "--activations", "int8",
                                          "--json"])
    exact, rounded = json.loads(result.stdout)["rows"]
    assert exact["engine"] == "mlxlm" and exact["left_out"] is None
    assert rounded["engine"] == "mlxlm-int8" and "MLXLM_KERNELS=off" in rounded["left_out"]


def test_an_engine_that_breaks_says_why(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "no_such_type"}')
    [row] = bench.measure(tmp_path, ["mlxlm"], [8], 2, [1], 1)
    assert "no_such_type" in row.left_out


def test_unknown_engines_and_counts_are_refused(model):
    result = CliRunner().invoke(command, [str(model), "-p", "8,x"])
    assert result.exit_code == 2 and "isn't a list of numbers" in result.output
    with pytest.raises(Exception, match="unknown engine"):
        bench.measure(model, ["mlxlm", "ollama"], [8], 2, [1], 1)


def test_the_bars_and_the_picture():
    rows = [Row("mlxlm", 8, 4, 1, Spread.of([100, 90, 110]), Spread.of([10])),
            Row("mlx-lm", 8, 4, 1, Spread.of([50]), None), Row("llama.cpp", 8, 4, 1, left_out="not installed")]
    lines = bench.bars(rows, 20)
    assert lines[0] == "prompt of 8, batch of 1, tokens per second"
    assert lines[1].count("█") == 20 and lines[2].count("█") == 10 and "mlx-lm" in lines[2]
    assert len(lines) == 5 and "llama" not in "".join(lines)
    picture = bench.svg(rows)
    assert picture.count("<rect") == 3 and picture.startswith("<svg") and picture.endswith("</svg>\n")
