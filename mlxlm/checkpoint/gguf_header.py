"""The header of a GGUF file, read from a memory map and checked before anything in it is trusted.

The format: magic, version, two counts, the metadata (key, type, value), the tensor table (name, dims, type, offset),
padding, and the tensors' bytes. Every length in it is compared with the bytes that are left.
"""

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError, SourceError, WeightError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MOST_DIMS = 4
MOST_DEPTH = 4  # arrays in arrays
STRING, ARRAY = 8, 9
SCALARS = {0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?", 10: "<u8", 11: "<i8",
           12: "<f8"}
SIZES = {kind: np.dtype(code).itemsize for kind, code in SCALARS.items()}
PULL_AGAIN = "The file is damaged or the download incomplete: pull the model again."

_u32, _u64 = struct.Struct("<I").unpack_from, struct.Struct("<Q").unpack_from


@dataclass(frozen=True)
class Block:
    """A tensor type's name, how many weights a block holds, and in how many bytes."""

    name: str
    weights: int
    bytes: int


# Type number to its block, as ggml's enum counts; numbers that are left out were taken back by ggml.
TYPES = {number: Block(*facts) for number, facts in {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136), 24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
}.items()}


@dataclass(frozen=True)
class Tensor:
    """One entry of the tensor table. ``shape`` is numpy's: rows first, the blocks run along the last axis."""

    file: Path
    name: str
    shape: tuple[int, ...]
    block: Block
    data: np.ndarray  # its bytes, (rows, bytes of a row), still in the map

    @property
    def where(self) -> str:
        return f"{self.file}: {self.name}"


@dataclass(frozen=True)
class Header:
    """``metadata`` holds numbers, strings, numpy arrays, and lists of bytes for arrays of strings."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, Tensor]


def read_header(path: Path) -> Header:
    """Raises SourceError, ConfigError (metadata) or WeightError (tensor table) for a file that isn't right."""
    data = _mapped(path)
    if data[:4] != MAGIC:
        raise WeightError("it isn't a GGUF file", where=path, found=repr(data[:4]), expected=repr(MAGIC))
    if len(data) < 24:
        raise WeightError("the file ends in its header", where=path, found=f"{len(data)} bytes", hint=PULL_AGAIN)
    version = _u32(data, 4)[0]
    if version not in VERSIONS:
        swapped = int.from_bytes(data[4:8], "big") in VERSIONS
        raise WeightError("this version of GGUF isn't read", where=path,
                          found="a big-endian file" if swapped else version,
                          expected="2 or 3, little-endian")
    reader = _Reader(path, data)
    tensor_count, pair_count = reader.u64(), reader.u64()
    metadata = reader.metadata(pair_count)
    table = reader.table(tensor_count)
    return Header(path, metadata, _placed(path, data, reader.at, metadata, table))


def _mapped(path: Path) -> mmap.mmap | bytes:
    try:
        with path.open("rb") as f:
            return mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError:  # an empty file can't be mapped
        return b""
    except OSError as e:
        raise SourceError(f"the file can't be read ({e.strerror})", where=path) from e


class _Reader:
    """Walks the header; ``at`` never passes the end of the file."""

    def __init__(self, path: Path, data: mmap.mmap | bytes):
        self.path, self.data, self.at, self.end = path, data, 8, len(data)

    def fail(self, problem: str, found: object = None) -> ConfigError:
        return ConfigError(problem, where=self.path, found=found, hint=PULL_AGAIN)

    def take(self, size: int) -> int:
        """The offset of the next ``size`` bytes, which are there."""
        start = self.at
        if size > self.end - start:
            raise self.fail("the header goes on beyond the file's end", f"{size} bytes wanted at {start} of {self.end}")
        self.at = start + size
        return start

    def u32(self) -> int:
        return _u32(self.data, self.take(4))[0]

    def u64(self) -> int:
        return _u64(self.data, self.take(8))[0]

    def text(self, what: str) -> str:
        size = self.u64()
        start = self.take(size)
        try:
            return self.data[start : start + size].decode()
        except UnicodeDecodeError as e:
            raise self.fail(f"{what} isn't text in UTF-8", self.data[start : start + min(size, 40)]) from e

    def metadata(self, count: int) -> dict[str, Any]:
        # A key and its value take 13 bytes at least: a count beyond that lies.
        if count > (self.end - self.at) // 13:
            raise self.fail("the number of metadata keys can't be right", count)
        pairs: dict[str, Any] = {}
        for _ in range(count):
            key = self.text("a metadata key")
            if key in pairs:
                raise self.fail("a metadata key comes twice", key)
            pairs[key] = self.value(key, self.u32())
        return pairs

    def value(self, key: str, kind: int, depth: int = 0) -> Any:
        if kind == STRING:
            return self.text(key)
        if kind == ARRAY:
            if depth > MOST_DEPTH:
                raise self.fail(f"{key}: arrays are nested too deep")
            return self.array(key, self.u32(), self.u64(), depth)
        if kind not in SCALARS:
            raise self.fail(f"{key} has a type that isn't known", kind)
        value = np.frombuffer(self.data, SCALARS[kind], 1, self.take(SIZES[kind]))[0]
        # 1e-05 is what the config said, not the 9.999999747e-06 that its float32 is.
        return float(str(value)) if kind == 6 else value.item()

    def array(self, key: str, kind: int, count: int, depth: int) -> Any:
        if kind in SCALARS:
            # Copied, so that no metadata value keeps the map alive.
            return np.frombuffer(self.data, SCALARS[kind], count,
                                 self.take(count * SIZES[kind])).copy() if count else np.empty(0)
        if count > (self.end - self.at) // 8:
            raise self.fail(f"{key} has a length that can't be right", count)
        if kind == STRING:
            return self.strings(key, count)
        return [self.value(key, kind, depth + 1) for _ in range(count)]

    def strings(self, key: str, count: int) -> list[bytes]:
        """An array of strings, undecoded. The loop is written for speed: vocabularies have up to 300,000 of them."""
        data, at, end, out, u64 = self.data, self.at, self.end, [], _u64
        append = out.append
        try:
            for _ in range(count):
                start = at + 8
                at = start + u64(data, at)[0]
                if at > end:
                    break
                append(data[start:at])
        except struct.error:
            at = end + 1
        if at > end:
            raise self.fail(f"{key} goes on beyond the file's end", f"string {len(out)} of {count}")
        self.at = at
        return out

    def table(self, count: int) -> list[tuple[str, tuple[int, ...], int, int]]:
        """(name, shape, type, offset) of each tensor. An entry takes 24 bytes at least."""
        if count > (self.end - self.at) // 24:
            raise WeightError("the number of tensors can't be right", where=self.path, found=count, hint=PULL_AGAIN)
        out = []
        for _ in range(count):
            name = self.text("a tensor's name")
            dims = self.u32()
            if dims > MOST_DIMS:
                raise WeightError("a tensor has too many dimensions", where=f"{self.path}: {name}", found=dims,
                                  expected=f"{MOST_DIMS} at most")
            shape = tuple(self.u64() for _ in range(dims))[::-1]
            out.append((name, shape, self.u32(), self.u64()))
        return out


def _placed(path: Path, data: mmap.mmap | bytes, end: int, metadata: dict, table: list) -> dict[str, Tensor]:
    """The tensors, each a view into the map that has been seen to lie in it."""
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 1 <= alignment <= 1 << 20 or alignment & (alignment - 1):
        raise ConfigError("general.alignment must be a power of two", where=path, found=alignment)
    start = -(-end // alignment) * alignment
    tensors: dict[str, Tensor] = {}
    reached = 0
    for name, shape, kind, offset in table:
        where = f"{path}: {name}"
        if name in tensors:
            raise WeightError("a tensor comes twice", where=where)
        block = TYPES.get(kind)
        if block is None:
            raise WeightError("the tensor has a type that isn't known", where=where, found=kind)
        row = shape[-1] if shape else 1
        if 0 in shape or row % block.weights:
            raise WeightError("the tensor's shape doesn't fit its type", where=where, found=f"{shape} in {block.name}",
                              expected=f"rows of a multiple of {block.weights}")
        row_bytes, rows = row // block.weights * block.bytes, math.prod(shape[:-1])
        if offset != reached:  # the format has them side by side, so that none shares its bytes with another
            raise WeightError("the tensor's offset can't be right", where=where, found=offset, expected=reached)
        reached = -(-(offset + rows * row_bytes) // alignment) * alignment
        if start + offset + rows * row_bytes > len(data):
            raise WeightError("the tensor lies beyond the file's end", where=where, hint=PULL_AGAIN,
                              found=f"bytes {start + offset} to {start + offset + rows * row_bytes} of {len(data)}")
        view = np.frombuffer(data, np.uint8, rows * row_bytes, start + offset).reshape(rows, row_bytes)
        tensors[name] = Tensor(path, name, shape, block, view)
    return tensors
