"""A GGUF file (or all parts of a split one) as a checkpoint: config, weights and tokenizer from that file alone.

Weights keep the file's own precision. Quantized ones become MLX's quantized triples without requantization wherever
the two formats can say the same (``gguf_blocks``), their scales in float16 where that is exact, else in float32. The
numbers that they stand for are float32 either way, so that the model computes in float32 like llama.cpp.
``load(dtype="bfloat16")`` converts them where speed or memory matters more.
"""

import math
import os
import re
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlx.core as mx

from ..errors import ConfigError, SourceError, UsageError, WeightError
from .gguf_architectures import config
from .gguf_blocks import GROUP, HALF_SCALES
from .gguf_header import Header, Tensor, read_header
from .gguf_names import Move, Piece, Shapes, as_mlx, converted, moves, quantization
from .parts import TokenizerParts

PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")
SCALE_DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}
WORKERS = min(8, os.cpu_count() or 1)


class GGUF:
    """The checkpoint of a GGUF file. Names and values are in mlx-lm's layout already."""

    is_mlx = True
    generation_config = None

    def __init__(self, path: str | Path, *, scale_dtype: str | None = None):
        if scale_dtype is not None and scale_dtype not in SCALE_DTYPES:
            raise UsageError("this dtype is not known", where="scale_dtype", found=repr(scale_dtype),
                             expected=", ".join(SCALE_DTYPES))
        self.path = Path(path)
        self._scale_dtype = None if scale_dtype is None else SCALE_DTYPES[scale_dtype]
        headers = _headers(self.path)
        self.metadata = headers[0].metadata
        self.tensors = _merged(headers)
        self.config: dict[str, Any]
        self.config, table, self._values = config(self.metadata, self.tensors, self.path)
        self._plan = moves(self.metadata["general.architecture"], table, self.tensors, self.config["num_hidden_layers"])
        half = [m.tensor for m in self._plan if m.quantized and m.tensor.block.name in HALF_SCALES]
        self.narrow_groups = 0 if scale_dtype else sum(math.prod(tensor.shape) // GROUP for tensor in half)
        if settings := quantization(self._plan):
            self.config["quantization"] = settings

    def load_weights(self) -> dict[str, mx.array]:
        """Every parameter by mlx-lm's name. Raises WeightError for tensors that can't be converted."""
        shapes = self._shapes()
        weights: dict[str, mx.array] = {}

        def work(move: Move) -> list[Piece]:
            return list(converted(move, shapes))

        # numpy works outside the interpreter's lock, so a few threads shorten the wait and cost no more CPU time.
        with ThreadPoolExecutor(WORKERS) as pool:
            for move, pieces in zip(self._plan, _ahead(pool, work, self._plan), strict=True):
                for name, values, dtype in pieces:
                    if name in weights:
                        raise WeightError("two tensors go to one place", where=move.tensor.where, found=name)
                    weights[name] = as_mlx(values, dtype)
        weights |= {name: mx.array(value) for name, value in self._values.items()}
        return joined(weights)

    def file_of(self, name: str) -> Path | None:
        """None: tensors have other names in the file."""
        return None

    def tokenizer_parts(self) -> TokenizerParts:
        """The tokenizer that the metadata describes. Raises TokenizerError or ConfigError where it can't be built."""
        from .gguf_tokenizer import tokenizer_parts

        return tokenizer_parts(self.metadata, self.path)

    def _shapes(self) -> Shapes:
        c = self.config
        embedding = self.tensors["token_embd.weight"].block.name
        heads = c.get("num_attention_heads") or c.get("num_query_heads") or 1
        one = 1 if c.get("multi_query") else heads
        wide = c["hidden_size"] // (heads if isinstance(heads, int) else 1)
        return Shapes(
            heads=heads, kv_heads=c.get("num_key_value_heads") or c.get("num_kv_heads") or one,
            head_dim=c.get("head_dim") or wide,
            nope_dim=c.get("qk_nope_head_dim") or 0, k_heads=c.get("linear_num_key_heads") or 1,
            v_heads=c.get("linear_num_value_heads") or 1, k_dim=c.get("linear_key_head_dim") or 1,
            scale_dtype=self._scale_dtype,
            # A bfloat16 file was a bfloat16 checkpoint: its norms, which GGUF widens, go back to what they were.
            vector_dtype=mx.bfloat16 if embedding == "BF16" else None,
        )


def joined(weights: dict[str, mx.array]) -> dict[str, mx.array]:
    """Halves of fused projections (``name#0`` and ``name#1``) put together along the output axis."""
    out = {name: w for name, w in weights.items() if "#" not in name}
    for name in (n.removesuffix("#0") for n in weights if n.endswith("#0")):
        first, second = weights[f"{name}#0"], weights.get(f"{name}#1")
        if second is None or first.ndim < 2 or _look(first) != _look(second):
            raise WeightError("the halves of a fused projection don't fit each other", where=name,
                              hint="The file quantizes them differently: use another quantization of the model.")
        out[name] = mx.concatenate([first, second], axis=0)
    return out


def _look(half: mx.array) -> tuple:
    """What halves must share; floats of two dtypes, such as scales, are joined in the wider one."""
    return mx.issubdtype(half.dtype, mx.floating) or half.dtype, half.shape[1:]


def _ahead(pool: ThreadPoolExecutor, work: Callable, items: list) -> Iterator:
    """Results in order, with a few in the making at a time: all at once would hold the model twice."""
    waiting: deque[Future] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) > 2 * WORKERS:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def open_gguf(path: str | Path, *, scale_dtype: str | None = None) -> GGUF:
    """Opens a GGUF file, or a split one by any of its parts.

    ``scale_dtype`` is that of quantized tensors' scales and biases, and of the numbers that they stand for: "float32"
    loses nothing; "float16" loses nothing for Q4_0 to Q8_0 and rounds the others. None stands for float32 numbers, and
    has the scales in float16 where it holds them exactly. Raises SourceError, ConfigError or WeightError for a file
    that can't be read.
    """
    return GGUF(path, scale_dtype=scale_dtype)


def _headers(path: Path) -> list[Header]:
    """The headers of all parts, the first part's first."""
    first = read_header(path)
    count = first.metadata.get("split.count", 1)
    if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= 99_999:
        raise ConfigError("split.count can't be right", where=path, found=repr(count)[:40])
    if count <= 1:
        return [first]
    named = PART.fullmatch(path.name)
    if named is None or int(named[3]) != count:
        raise SourceError("the file is one part of a split model, and its name doesn't say so", where=path,
                          expected=f"a name that ends in -00001-of-{count:05}.gguf",
                          hint="Give the parts their names back.")
    parts = [path.with_name(f"{named[1]}-{i:05}-of-{count:05}.gguf") for i in range(1, count + 1)]
    if missing := [p.name for p in parts if not p.is_file()]:
        raise SourceError("parts of the split model are missing", where=path.parent, found=", ".join(missing[:5]),
                          hint="The download is incomplete: pull the model again.")
    headers = [first if p == path else read_header(p) for p in parts]
    for i, header in enumerate(headers):
        if (header.metadata.get("split.no"), header.metadata.get("split.count")) != (i, count):
            raise WeightError("the part isn't the one that its name says", where=header.path,
                              found=f"split.no {header.metadata.get('split.no')!r}",
                              expected=i)
    return headers


def _merged(headers: list[Header]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for header in headers:
        if twice := sorted(tensors.keys() & header.tensors.keys()):
            raise WeightError("tensors stand in two parts", where=header.path, found=", ".join(twice[:5]))
        tensors |= header.tensors
    expected = headers[0].metadata.get("split.tensors.count", len(tensors))
    if len(headers) > 1 and expected != len(tensors):
        raise WeightError("the parts don't hold all tensors", where=headers[0].path, found=len(tensors),
                          expected=expected)
    return tensors
