"""Turns ``mx.compile`` off on the CPU backend, where it starts a C++ compiler for each kernel and gains nothing."""

import mlx.core as mx


def no_compile_on_cpu() -> bool:
    """Makes compiled functions run as written where the default device is a CPU; returns whether it did."""
    if mx.default_device() != mx.Device(mx.cpu, 0):
        return False
    mx.disable_compile()
    return True
