"""What every test shares: the same examples each time in CI, and a Ctrl-C that means what it does in a terminal."""

import os
import signal
import sys
from pathlib import Path

from command import mlxlm  # noqa: F401 (a fixture for all)
from hypothesis import settings
from small_hub import server  # noqa: F401 (a fixture for all)

settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
settings.register_profile("local", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "local")

# A shell ignores SIGINT for its background jobs, and whoever it starts inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)


class TorchvisionShim:
    """The compiled half of torchvision doesn't load beside PyTorch's CPU build; the rest asks only that its ops exist.

    An import hook, so that runs which never need PyTorch don't import it.
    """

    ops = ("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
           "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            if not hasattr(torch.ops.torchvision, "nms"):
                self.library = torch.library.Library("torchvision", "DEF")
                for op in self.ops:
                    self.library.define(op)
        return None


# It lies apart (see the Makefile), so that only processes that know this trick see it.
sys.path.append(str(Path(sys.prefix) / "torchvision"))
shim = TorchvisionShim()  # its library unloads when it goes
sys.meta_path.insert(0, shim)


def pytest_addoption(parser):
    parser.addoption("--proven", action="store_true", help="Write what the parity matrices find to registries/.")


def pytest_sessionfinish(session, exitstatus):
    if session.config.getoption("--proven") and exitstatus == 0:
        import proven

        proven.write()
