"""Keys and values in 2 to 8 bits: a growing cache whose tokens are packed as MLX packs weights, by affine groups."""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from ..errors import GenerationError
from .kv import Arrays, KVCache

BITS = (2, 3, 4, 5, 6, 8)
GROUPS = (32, 64, 128)


class Packed:
    """Rows of numbers in few bits (B, heads, S, dim), for whoever can count with them as they are."""

    def __init__(self, arrays: Sequence[mx.array], group_size: int, bits: int):
        self.weight, self.scales, self.biases = arrays
        self.group_size, self.bits = group_size, bits

    @property
    def arrays(self) -> list[mx.array]:
        """The codes (B, heads, S, dim * bits / 32), scales and biases (B, heads, S, dim / group_size)."""
        return [self.weight, self.scales, self.biases]

    @property
    def dtype(self) -> mx.Dtype:
        return self.scales.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.scales.shape[:-1], self.scales.shape[-1] * self.group_size)

    def unpacked(self) -> mx.array:
        """The numbers that it stands for."""
        return mx.dequantize(self.weight, self.scales, self.biases, self.group_size, self.bits)

    def product(self, x: mx.array, transpose: bool) -> mx.array:
        """``x`` (B, heads, n, ...) times this, ``x @ self.T`` with ``transpose``, without unpacking it."""
        return mx.quantized_matmul(
            x, self.weight, self.scales, self.biases, transpose=transpose, group_size=self.group_size, bits=self.bits
        )


class QuantizedKVCache(KVCache):
    """Six buffers: packed weights, scales and biases of keys, then of values.

    ``update`` hands out `Packed` tokens, ``update_and_fetch`` plain ones, for layers that count with arrays alone.
    """

    kind = "quantized"

    def __init__(self, group_size: int = 64, bits: int = 8):
        super().__init__()
        self.group_size, self.bits = group_size, bits

    @classmethod
    def of(cls, cache: KVCache, group_size: int, bits: int) -> "QuantizedKVCache":
        """What a growing cache holds, packed; the cache itself stays as it is."""
        new = cls(group_size, bits)
        new.offset = cache.offset
        new.starts = cache.starts
        if cache.keys is not None and cache.values is not None:
            new.buffers = new._encoded(cache.keys, cache.values)
        return new

    def _encoded(self, keys: mx.array, values: mx.array) -> Arrays:
        pairs = (mx.quantize(t, group_size=self.group_size, bits=self.bits) for t in (keys, values))
        return tuple(array for pair in pairs for array in pair)

    def _packed(self, arrays: Sequence[mx.array]) -> tuple[Packed, Packed]:
        return Packed(arrays[:3], self.group_size, self.bits), Packed(arrays[3:], self.group_size, self.bits)

    def _decoded(self, arrays: Sequence[mx.array]) -> tuple[Any, Any]:
        keys, values = self._packed(arrays)
        return keys.unpacked(), values.unpacked()

    def update(self, keys: mx.array, values: mx.array) -> tuple[Any, Any]:
        return self._packed(self._updated(keys, values))

    def _alike(self) -> tuple:
        return (*super()._alike(), self.group_size, self.bits)


def group_of(dims: Sequence[int], wanted: int) -> int | None:
    """``wanted``, or the nearest smaller group that keys and values of these widths can be split into; or None."""
    return next((g for g in (wanted, 128, 64, 32) if g <= wanted and all(d and d % g == 0 for d in dims)), None)


def check_quantization(bits: int | None, group_size: int, start: int) -> None:
    """Raises GenerationError for settings that no cache can have."""
    if bits is not None and bits not in BITS:
        raise GenerationError("not a width that MLX packs", where="kv_bits", found=bits, expected=f"one of {BITS}")
    if group_size not in GROUPS:
        raise GenerationError("not a group size", where="kv_group_size", found=group_size, expected=f"one of {GROUPS}")
    if isinstance(start, bool) or not isinstance(start, int) or start < 0:
        raise GenerationError("not a number of tokens", where="quantized_kv_start", found=start, expected="0 or more")
