"""What the tests of conversion share: a tiny model."""

import pytest
import tiny


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return tiny.checkpoint(tmp_path_factory.mktemp("tiny") / "model")
