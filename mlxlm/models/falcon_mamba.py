"""Falcon Mamba: Mamba whose dt, B and C are normalised, without weights."""

from dataclasses import dataclass
from functools import partial

from ..architecture import Architecture
from ..decoder import Decoder
from ..kernels import ops
from . import mamba


@dataclass(kw_only=True)
class Config(mamba.Config):
    mixer_rms_eps: float = 1e-6


def build(c: Config) -> Decoder:
    flat = partial(ops.rms_norm, weight=None, eps=c.mixer_rms_eps)
    return mamba.build(c, norms=(flat, flat, flat))


ARCHITECTURE = Architecture(Config, build, (), mamba.VALUES)
