"""What the tests of the command line share: a tiny model."""

import pytest
import tiny


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> str:
    return str(tiny.checkpoint(tmp_path_factory.mktemp("tiny") / "model"))
