"""What the tests of adapters share: a command line in this process."""

import pytest

from mlxlm.cli.group import run


@pytest.fixture
def mlxlm(capsys):
    def call(*arguments):
        status = run([str(a) for a in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call
