"""Convolutions over (N, rows, columns, channels); a 1 x 1 one is a plain projection, and runs as one."""

import mlx.core as mx
import mlx.nn as nn

from ..kernels import ops


class Conv(nn.Module):
    """Keeps the size, or divides it by ``stride``: half a kernel of zeros on every side."""

    def __init__(self, dim: int, out: int, kernel: int = 1, stride: int = 1, groups: int = 1, bias: bool = True):
        super().__init__()
        self.weight = mx.zeros((out, kernel, kernel, dim // groups))
        if bias:
            self.bias = mx.zeros((out,))
        self._kernel, self._stride, self._groups = kernel, stride, groups

    def __call__(self, x: mx.array) -> mx.array:
        if self._kernel == 1 and self._stride == 1 and self._groups == 1:
            return ops.linear(x, self.weight[:, 0, 0], self.get("bias"))
        stride = (self._stride, self._stride)
        return ops.conv2d(x, self.weight, self.get("bias"), stride=stride, padding=self.padding(x), groups=self._groups)

    def padding(self, x: mx.array) -> tuple[tuple[int, int], tuple[int, int]]:
        """How many zeros are put above and below ``x``, and left and right of it."""
        half = self._kernel // 2
        return (half, half), (half, half)


class SameConv(Conv):
    """A convolution padded as TensorFlow's "same": no more than the strides need, the odd zero at the end."""

    def padding(self, x: mx.array) -> tuple[tuple[int, int], tuple[int, int]]:
        _, rows, columns, _ = x.shape
        down, across = (max((-(-n // self._stride) - 1) * self._stride + self._kernel - n, 0) for n in (rows, columns))
        return (down // 2, down - down // 2), (across // 2, across - across // 2)
