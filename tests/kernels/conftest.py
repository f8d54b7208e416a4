"""Settings of the kernels' tests: bounded examples, and a skip where the extension isn't built."""

import os

import pytest
from hypothesis import HealthCheck, settings

from mlxlm.kernels.choice import CHOICE

EXAMPLES = int(os.environ.get("MLXLM_KERNEL_EXAMPLES", "40"))

settings.register_profile(
    "kernels", max_examples=EXAMPLES, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@pytest.fixture(autouse=True)
def kernels_in_force():
    if CHOICE.module is None:
        pytest.skip(f"no CPU kernels: {CHOICE.reason}")


@pytest.fixture(autouse=True, scope="session")
def bounded_examples():
    settings.load_profile("kernels")
    yield
    settings.load_profile("default")
