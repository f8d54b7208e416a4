"""Adapters: low-rank changes of a model's weights, as mlx-lm and PEFT save them, put on, weighted, taken off or fused.

Any number may be on a model at once; what they add is summed.
"""

from .attach import attach, attach_all, attached, detach, fuse, set_strength

__all__ = ["attach", "attach_all", "attached", "detach", "fuse", "set_strength"]
