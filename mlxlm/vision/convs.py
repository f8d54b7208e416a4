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
        x = mx.conv2d(self.padded(x), self.weight, self._stride, groups=self._groups)
        return x + self.bias if "bias" in self else x

    def padded(self, x: mx.array) -> mx.array:
        """``x`` with the zeros around it."""
        half = self._kernel // 2
        return mx.pad(x, [(0, 0), (half, half), (half, half), (0, 0)])


class SameConv(Conv):
    """A convolution padded as TensorFlow's "same": no more than the strides need, the odd zero at the end."""

    def padded(self, x: mx.array) -> mx.array:
        more = [max((-(-n // self._stride) - 1) * self._stride + self._kernel - n, 0) for n in x.shape[1:3]]
        return mx.pad(x, [(0, 0), *((n // 2, n - n // 2) for n in more), (0, 0)])
