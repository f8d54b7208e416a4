"""What a model file offers: its config, its builder, and two tuples of rules for checkpoint names and values."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TextHalf:
    """The text half of a multimodal model: the architecture that the text registry has for it, and its settings."""

    architecture: "Architecture"
    config: Any

    def build(self) -> Any:
        """The decoder, with random weights."""
        return self.architecture.build(self.config)


@dataclass(frozen=True)
class Architecture:
    """``build(config)`` makes the module; the rules bring a checkpoint's tensors to it.

    ``names`` work on module paths and always apply, to quantized modules and per-layer settings too. They leave
    names that are right already as they are. ``values`` change numbers or layouts, and apply only to
    checkpoints in Hugging Face's layout: never when the safetensors metadata says ``format: mlx``. ``saved`` brings
    our names to mlx-lm's when a model is saved, where the two differ.
    """

    config: type
    build: Callable[[Any], Any]
    names: tuple = ()
    values: tuple = ()
    saved: tuple = ()
