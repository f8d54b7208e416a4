"""A safetensors file written one tensor at a time: what isn't computed yet is computed as its turn comes, and let go.

The header needs only shapes and dtypes, which MLX knows before it computes anything. So a model of any size is
converted in the memory of its largest tensor.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx

from ..errors import SourceError
from ..weights import Weights

DTYPES = {mx.float32: "F32", mx.float16: "F16", mx.bfloat16: "BF16", mx.uint32: "U32", mx.int32: "I32", mx.uint8: "U8",
          mx.int8: "I8", mx.uint16: "U16", mx.int16: "I16", mx.uint64: "U64", mx.int64: "I64", mx.bool_: "BOOL"}
PIECE = 1 << 24
BLOCK = 1 << 24


def write_safetensors(file: Path, weights: Weights, metadata: dict[str, str] | None = None,
                      progress: Callable[[int], Any] = lambda count: None) -> str:
    """Writes ``weights`` and empties it on the way; returns the file's SHA-256, and the file is on the disk.

    ``progress`` is told of each piece's bytes. Raises SourceError for a disk that is full or can't be written.
    """
    entries, end = {}, 0
    for name, w in weights.items():
        entries[name] = {"dtype": DTYPES[w.dtype], "shape": list(w.shape), "data_offsets": [end, end + w.nbytes]}
        end += w.nbytes
    header = json.dumps({"__metadata__": metadata or {"format": "mlx"}, **entries}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    digest = hashlib.sha256()
    try:
        with file.open("wb") as out:
            for piece in (len(header).to_bytes(8, "little"), header):
                digest.update(piece)
                out.write(piece)
            for name in entries:
                _write_tensor(out, weights.pop(name), digest, progress)
            out.flush()
            os.fsync(out.fileno())
    except OSError as error:
        raise SourceError(f"the weights can't be written ({error.strerror})", where=file) from error
    return digest.hexdigest()


def _write_tensor(out: Any, w: mx.array, digest: Any, progress: Callable[[int], Any]) -> None:
    for block in _blocks(w):
        flat = mx.contiguous(block.flatten()).view(mx.uint8)  # a scalar has no view of its bytes
        mx.eval(flat)
        data = memoryview(flat).cast("B")  # type: ignore[arg-type]
        for start in range(0, len(data), PIECE):
            piece = data[start:start + PIECE]
            digest.update(piece)
            out.write(piece)
            progress(len(piece))


def _blocks(w: mx.array) -> Iterator[mx.array]:
    """``w`` in order, a large one in parts: a part of a view is copied, and not the whole."""
    if not w.nbytes:
        return
    if w.ndim < 2 or w.nbytes <= BLOCK:
        yield w
        return
    mx.eval(w)
    step = max(1, w.shape[0] * BLOCK // w.nbytes)
    for at in range(0, w.shape[0], step):
        yield w[at:at + step]
