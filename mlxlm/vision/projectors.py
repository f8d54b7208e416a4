"""Projectors that several families share: from a tower's features to a decoder's embeddings."""

import mlx.core as mx
import mlx.nn as nn

from ..layers import activation


class LinearPair(nn.Module):
    """linear_2(act(linear_1(x)))."""

    def __init__(self, dim: int, hidden: int, out: int, *, act: str = "gelu", bias: bool = True):
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(dim, hidden, bias=bias), nn.Linear(hidden, out, bias=bias)
        self._act = activation(act)

    def __call__(self, x: mx.array) -> mx.array:
        return self.linear_2(self._act(self.linear_1(x)))


def fold(x: mx.array, factor: int) -> mx.array:
    """(N, rows, columns, dim) to (N, rows / factor, columns / factor, factor² * dim): squares of patches become one.

    Within a square the patches lie row by row.
    """
    n, rows, columns, dim = x.shape
    x = x.reshape(n, rows // factor, factor, columns // factor, factor, dim)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(n, rows // factor, columns // factor, -1)
