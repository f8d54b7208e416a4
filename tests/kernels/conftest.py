"""Settings of the kernels' tests: bounded examples, and a skip where the extension isn't built."""

import os

import pytest
from hypothesis import HealthCheck, settings

from mlxlm.kernels.choice import CHOICE
from mlxlm.layers import fused

EXAMPLES = int(os.environ.get("MLXLM_KERNEL_EXAMPLES", "40"))

settings.register_profile(
    "kernels", max_examples=EXAMPLES, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@pytest.fixture(autouse=True)
def kernels_in_force():
    if CHOICE.module is None:
        pytest.skip(f"no CPU kernels: {CHOICE.reason}")


class Counted:
    """The extension, counting the blocks that it ran by themselves, and the layers that it ran in stacks."""

    def __init__(self, module):
        self.module, self.count, self.layers = module, 0, 0

    def __getattr__(self, name):
        return getattr(self.module, name)

    def block(self, *arguments):
        done = self.module.block(*arguments)
        self.count += done is not None
        return done

    def stack(self, native, x, memories, *rest):
        done = self.module.stack(native, x, memories, *rest)
        self.layers += len(memories) if done is not None else 0
        return done


@pytest.fixture
def counted(monkeypatch):
    counter = Counted(fused.ops.native)
    monkeypatch.setattr(fused.ops, "native", counter)
    return counter


@pytest.fixture(autouse=True, scope="session")
def bounded_examples():
    settings.load_profile("kernels")
    yield
    settings.load_profile("default")
