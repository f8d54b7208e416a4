"""Conversion: checkpoints of any kind to MLX folders, quantized by recipe, in little memory, and never half."""

from .recipes import Recipe, Setting
from .run import Conversion, convert

__all__ = ["Conversion", "Recipe", "Setting", "convert"]
