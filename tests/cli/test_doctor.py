"""The doctor: nothing wrong here, and everything that can be wrong is named with what to do."""

import json

import mlx.core as mx
import pytest
from click.testing import CliRunner

from mlxlm import doctor
from mlxlm.cli.doctor import command


def named(findings):
    return {(finding.topic, finding.name): finding for finding in findings}


def test_this_machine_is_in_order():
    result = CliRunner().invoke(command, ["--json"])
    found = json.loads(result.output)
    problems = [f for f in found if f["state"] == "problem"]
    assert problems == [] and result.exit_code == 0
    assert {f["topic"] for f in found} == {"machine", "packages", "kernels", "operations", "places", "speed"}
    assert {f["name"] for f in found if f["topic"] == "operations"} == set(doctor.OPERATIONS)


@pytest.mark.parametrize("name", doctor.OPERATIONS)
def test_a_wrong_operation_is_a_problem(name):
    got, wanted = doctor.OPERATIONS[name]()
    assert doctor._operation(name, lambda: (got, wanted)).state == "ok"
    assert doctor._operation(name, lambda: (got * mx.array(1.02), wanted)).state == "problem"


def test_an_operation_that_fails_is_a_problem():
    def fails():
        raise RuntimeError("no such kernel")

    finding = doctor._operation("linear", fails)
    assert finding.state == "problem" and "no such kernel" in finding.said and finding.hint


def test_missing_and_bad_packages_are_named(monkeypatch):
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: [
        "numpy>=999", "surely-not-installed>=1", "torch>=1; extra == 'test'", "click"])
    found = named(doctor._packages())
    assert "needs >=999" in found["packages", "numpy"].said
    assert found["packages", "surely-not-installed"].said.startswith("missing")
    assert ("packages", "torch") not in found and ("packages", "click") not in found
    monkeypatch.setattr(doctor.metadata, "version", lambda name: "0.30.1")
    assert named(doctor._packages())["packages", "mlx"].state == "note"


def test_kernels_that_are_missing_are_a_problem_unless_wished(monkeypatch):
    monkeypatch.setattr("mlxlm.kernels.in_force", lambda: {"native": False, "reason": "the extension is not built"})
    monkeypatch.setattr(doctor.platform, "system", lambda: "Linux")
    monkeypatch.delenv("MLXLM_KERNELS", raising=False)
    [finding] = doctor._kernels()
    assert finding.state == "problem" and "compiler" in finding.hint
    monkeypatch.setenv("MLXLM_KERNELS", "off")
    [finding] = doctor._kernels()
    assert finding.state == "ok"


def test_a_gpu_that_is_not_used(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    if mx.default_device().type != mx.DeviceType.gpu:
        assert "mlxlm[cuda]" in named(doctor._machine())["machine", "nvidia"].hint


def test_the_text_ends_with_the_verdict(monkeypatch):
    shown = CliRunner().invoke(command, ["--quick"])
    assert shown.output.endswith("All is in order.\n") and "GFLOP" not in shown.output
    monkeypatch.setattr("mlxlm.doctor.examine", lambda speeds: [doctor.Finding("a", "b", "problem", "c", "do this")])
    shown = CliRunner().invoke(command, [], standalone_mode=False)
    assert shown.return_value == 1 and "do this" in shown.output and "1 problem." in shown.output
