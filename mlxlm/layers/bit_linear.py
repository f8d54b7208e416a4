"""A linear layer of ternary weights, four to a byte as transformers packs them, on activations rounded to 8 bits."""

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from ..errors import WeightError
from ..kernels import ops

GROUPS = (128, 64, 32)


class BitLinear(nn.Module):
    """x W^T for W of -1, 0 and 1 times one scale (Ma et al., BitNet b1.58).

    ``weight`` (out / 4, in) holds W + 1 in pairs of bits: byte row r has the rows r, r + out/4, r + out/2, r + 3 out/4,
    lowest bits first. ``weight_scale`` (1,) multiplies the result, or divides it where it is ``inverted``.
    """

    def __init__(self, dim: int, out: int, *, bias: bool = False, inverted: bool = False):
        super().__init__()
        if out % 4:
            raise WeightError("ternary weights are packed four rows to one", found=f"{out} rows")
        self.weight = mx.zeros((out // 4, dim), mx.uint8)
        self.weight_scale = mx.ones((1,))
        if bias:
            self.bias = mx.zeros((out,))
        self._inverted = inverted
        self._words: tuple[mx.array, mx.array] | None = None  # (the packed bytes that they are made of, MLX's words)

    def __call__(self, x: mx.array) -> mx.array:
        x = rounded(x)
        dim = x.shape[-1]
        group = next((g for g in GROUPS if dim % g == 0), None)
        if group is None:
            y = x @ (self.codes().astype(x.dtype) - 1).T
        else:
            words = self.words()
            ones = mx.ones((words.shape[0], dim // group), x.dtype)
            y = ops.quantized_matmul(x, words, ones, -ones, group_size=group, bits=2)
        scale = self.weight_scale.astype(mx.float32)
        y = (y * (1 / scale if self._inverted else scale)).astype(x.dtype)
        return y + self.bias if "bias" in self else y

    def codes(self) -> mx.array:
        """W + 1 as bytes (out, in)."""
        return mx.concatenate([(self.weight >> (2 * i)) & 3 for i in range(4)], axis=0)

    def words(self) -> mx.array:
        """W + 1 in MLX's words of 16 pairs of bits; made once for the weights that are there."""
        if self._words is None or self._words[0] is not self.weight:
            codes = mx.unflatten(self.codes().astype(mx.uint32), -1, (-1, 16))
            words = (codes << mx.arange(0, 32, 2, dtype=mx.uint32)).sum(-1).astype(mx.uint32)
            mx.eval(words)
            self._words = (self.weight, words)
        return self._words[1]


def rounded(x: mx.array) -> mx.array:
    """``x`` on a grid of 8 bits, as fine as each token's largest value allows."""
    exact = x.astype(mx.float32)
    scale = 127 / mx.maximum(mx.abs(exact).max(-1, keepdims=True), 1e-5)
    return (mx.clip(mx.round(exact * scale), -128, 127) / scale).astype(x.dtype)


def pack(block: nn.Module, *, inverted: bool, keep: tuple[str, ...] = (), prefix: str = "") -> None:
    """Makes every linear layer of ``block`` a BitLinear, those whose path ends in one of ``keep`` aside."""
    new = []
    for path, layer in tree_flatten(block.leaf_modules(), is_leaf=nn.Module.is_module):
        if isinstance(layer, nn.Linear) and not any(f"{prefix}{path}".endswith(name) for name in keep):
            out, dim = layer.weight.shape
            new.append((path, BitLinear(dim, out, bias="bias" in layer, inverted=inverted)))
    block.update_modules(tree_unflatten(new))
