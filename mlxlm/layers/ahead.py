"""One more layer after the last, which guesses the token after the next one (DeepSeek V3's report, section 2.2)."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn


class Ahead(nn.Module):
    """The last hidden state and the next token's embedding, each normed, projected to one, through a block.

    ``hidden_first`` is the order in which they are put side by side. ``carries_normed`` says what the next guess goes
    on from: the block's output after the final norm, or before it.
    """

    def __init__(self, dim: int, block: Any, norm: Callable, *, hidden_first: bool, carries_normed: bool):
        super().__init__()
        self.embed_norm, self.hidden_norm, self.norm = norm(), norm(), norm()
        self.project = nn.Linear(2 * dim, dim, bias=False)
        self.block = block
        self._hidden_first, self.carries_normed = hidden_first, carries_normed

    def make_cache(self) -> Any:
        return self.block.make_cache()

    def __call__(self, hidden: mx.array, embedded: mx.array, cache, step) -> mx.array:
        """(B, L, dim) and (B, L, dim) to (B, L, dim), before the final norm."""
        two = [self.embed_norm(embedded), self.hidden_norm(hidden)]
        x = mx.concatenate(two[::-1] if self._hidden_first else two, axis=-1)
        return self.block(self.project(x), cache, step)
