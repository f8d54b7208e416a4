"""What the tests of conversion share: a tiny model in one process."""

import pytest
import tiny

from mlxlm.cli.group import run


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return tiny.checkpoint(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def mlxlm(capsys):
    def call(*arguments):
        status = run([str(a) for a in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call
