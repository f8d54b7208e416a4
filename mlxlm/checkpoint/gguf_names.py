"""GGUF's tensor names to mlx-lm's, and what llama.cpp did to the values undone: a table of rows per architecture.

A row says where a tensor goes and how: as a module's weight or bias (``module``), or as a value of a special kind.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import numpy as np

from ..errors import WeightError
from .gguf_blocks import Packed, floats, is_plain, numbers, repack
from .gguf_header import Tensor


@dataclass(frozen=True)
class To:
    """``path`` is a module's path, or a parameter's for the kinds that name one array. ``{}`` is the layer's number."""

    path: str
    kind: str = "module"


@dataclass(frozen=True)
class Reading:
    """How one architecture is read: its model_type, its tensors' places, its metadata.

    ``table`` may look at the file to choose. ``values(keys, layers)`` gives parameters that the metadata holds.
    """

    model_type: str
    table: dict[str, To] | Callable[[Any], dict[str, To]]
    config: Callable[[Any, dict[str, Any]], None]
    values: Callable[[Any, int], dict[str, float]] | None = None


@dataclass(frozen=True)
class Move:
    """One tensor of the file and where it goes."""

    tensor: Tensor
    path: str
    kind: str
    suffix: str  # weight, bias, or nothing

    @property
    def quantized(self) -> bool:
        return self.kind in QUANTIZABLE and self.suffix == "weight" and not is_plain(self.tensor)


@dataclass(frozen=True)
class Shapes:
    """What undoing needs to know of the model."""

    heads: int | list[int]  # of each layer, where they differ
    kv_heads: int | list[int]
    head_dim: int
    nope_dim: int
    k_heads: int  # of a gated delta net
    v_heads: int
    k_dim: int
    scale_dtype: mx.Dtype | None  # None leaves scales and biases as they are
    vector_dtype: mx.Dtype | None  # norms and biases are brought to it; None leaves them


# A parameter: its name, its values, and the dtype that it is wanted in (None: as it is).
Piece = tuple[str, np.ndarray, mx.Dtype | None]
QUANTIZABLE = ("module", "q", "k", "qkv", "gate_up", "v_rows", "qkv_v", "v_columns", "ba", "half0", "half1")
BLOCK = re.compile(r"blk\.(\d+)\.(.+)")


def attention(at: str, rope_permuted: bool = False) -> dict[str, To]:
    q, k = ("q", "k") if rope_permuted else ("module", "module")
    return {"attn_q": To(f"{at}.q_proj", q), "attn_k": To(f"{at}.k_proj", k), "attn_v": To(f"{at}.v_proj"),
            "attn_output": To(f"{at}.o_proj"), "attn_qkv": To(at, "qkv")}


def mlp(at: str, suffix: str = "") -> dict[str, To]:
    return {f"ffn_{part}{suffix}": To(f"{at}.{part}_proj") for part in ("gate", "up", "down")}


def experts(at: str) -> dict[str, To]:
    return {**mlp(at, "_exps"), "ffn_gate_up_exps": To(at, "gate_up")}


ROOT = {"token_embd": To("model.embed_tokens"), "output_norm": To("model.norm", "vector"), "output": To("lm_head")}
OUTSIDE = {*ROOT, "position_embd", "token_embd_norm", "per_layer_token_embd", "per_layer_model_proj",
           "per_layer_proj_norm", "altup_proj", "altup_unembd_proj"}  # names that belong to no layer
PRE_NORM = {"attn_norm": To("input_layernorm", "vector"), "ffn_norm": To("post_attention_layernorm", "vector")}
HEAD_NORMS = {"attn_q_norm": To("self_attn.q_norm", "vector"), "attn_k_norm": To("self_attn.k_norm", "vector")}
LLAMA = {**ROOT, **PRE_NORM, **attention("self_attn", rope_permuted=True), **mlp("mlp")}
QWEN2 = {**LLAMA, **attention("self_attn")}
GEMMA = {
    **ROOT, **attention("self_attn"), **mlp("mlp"), "output_norm": To("model.norm", "less_one"),
    "attn_norm": To("input_layernorm", "less_one"), "post_attention_norm": To("post_attention_layernorm", "less_one"),
    "ffn_norm": To("pre_feedforward_layernorm", "less_one"),
    "post_ffw_norm": To("post_feedforward_layernorm", "less_one"),
    "attn_q_norm": To("self_attn.q_norm", "less_one"), "attn_k_norm": To("self_attn.k_norm", "less_one"),
}
GROUPED = {
    "ffn_gate_inp": To("mlp.gate", "numbers"), "exp_probs_b": To("mlp.gate.e_score_correction_bias", "value"),
    **experts("mlp.switch_mlp"), **mlp("mlp.shared_experts", "_shexp"),
}
# Queries and keys of Nemotron-H went through llama.cpp's permutation too. It has no positions, so the
# order within a head cancels out in the product, and they are left as they are.
NEMOTRON_H = {
    "token_embd": To("backbone.embeddings"), "output_norm": To("backbone.norm_f", "vector"), "output": To("lm_head"),
    "attn_norm": To("norm", "vector"), **attention("mixer"), "ffn_up": To("mixer.up_proj"),
    "ffn_down": To("mixer.down_proj"),
    "ssm_in": To("mixer.in_proj"), "ssm_out": To("mixer.out_proj"), "ssm_conv1d": To("mixer.conv1d", "conv"),
    "ssm_dt": To("mixer.dt_bias", "value"), "ssm_a": To("mixer.A_log", "a_log"), "ssm_d": To("mixer.D", "flat"),
    "ssm_norm": To("mixer.norm.weight", "flat"), "ffn_gate_inp": To("mixer.gate", "numbers"),
    "exp_probs_b": To("mixer.gate.e_score_correction_bias", "value"), "ffn_up_exps": To("mixer.switch_mlp.fc1"),
    "ffn_down_exps": To("mixer.switch_mlp.fc2"), "ffn_up_shexp": To("mixer.shared_experts.up_proj"),
    "ffn_down_shexp": To("mixer.shared_experts.down_proj"), "ffn_latent_down": To("mixer.fc1_latent_proj"),
    "ffn_latent_up": To("mixer.fc2_latent_proj"),
}
TABLES: dict[str, dict[str, To]] = {
    "llama": {**LLAMA, "ffn_gate_inp": To("mlp.gate", "numbers"), **experts("mlp.switch_mlp")},
    "smollm3": LLAMA,
    "qwen2": QWEN2,
    "qwen3": {**QWEN2, **HEAD_NORMS},
    "qwen3moe": {**QWEN2, **HEAD_NORMS, "ffn_gate_inp": To("mlp.gate", "numbers"), **experts("mlp.switch_mlp")},
    "gemma2": GEMMA,
    "gemma3": GEMMA,
    "glm4moe": {**QWEN2, **HEAD_NORMS, **GROUPED, "post_attention_norm": To("post_attention_layernorm", "vector")},
    "deepseek2": {
        **ROOT, **PRE_NORM, **mlp("mlp"), **GROUPED, "attn_q": To("self_attn.q_proj"),
        "attn_q_a": To("self_attn.q_a_proj"),
        "attn_q_b": To("self_attn.q_b_proj"), "attn_q_a_norm": To("self_attn.q_a_layernorm", "vector"),
        "attn_kv_a_mqa": To("self_attn.kv_a_proj_with_mqa"), "attn_kv_a_norm": To("self_attn.kv_a_layernorm", "vector"),
        "attn_k_b": To("self_attn.embed_q"), "attn_v_b": To("self_attn.unembed_out"),
        "attn_kv_b": To("self_attn", "kv_b"),
        "attn_output": To("self_attn.o_proj"),
    },
    "nemotron_h": NEMOTRON_H,
    "nemotron_h_moe": NEMOTRON_H,
    "gpt-oss": {
        **ROOT, **attention("self_attn"), "attn_norm": To("input_layernorm", "vector"),
        "post_attention_norm": To("post_attention_layernorm", "vector"), "attn_sinks": To("self_attn.sinks", "value"),
        "ffn_gate_inp": To("mlp.router", "numbers"), **experts("mlp.experts"),
    },
}
ROPE_FACTORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")  # the config takes them


def moves(architecture: str, table: dict[str, To], tensors: dict[str, Tensor], layers: int) -> list[Move]:
    """Where ``table`` says that every tensor goes. Layers from ``layers`` on only predict ahead and are left out.

    Raises WeightError with the names that the architecture has no place for.
    """
    out, strange = [], []
    body = table["token_embd"].path.partition(".")[0]
    for name, tensor in tensors.items():
        block = BLOCK.fullmatch(name)
        if name in ROPE_FACTORS or (block and int(block[1]) >= layers):
            continue
        stem, suffix = _stem(block[2] if block else name)
        to = table.get(stem)
        if to is None or (block is None) != (stem in OUTSIDE):
            strange.append(name)
            continue
        path = f"{body}.layers.{block[1]}.{to.path}" if block else to.path
        out.append(Move(tensor, path, to.kind, suffix))
    if strange:
        raise WeightError(f"{architecture!r} has no place for these tensors", where=next(iter(tensors.values())).file,
                          found=", ".join(strange[:10]) + (" …" if len(strange) > 10 else ""),
                          hint="The file may hold a variant of the model that can't be read yet.")
    return out


def _stem(name: str) -> tuple[str, str]:
    stem, dot, suffix = name.rpartition(".")
    return (stem, suffix) if dot and suffix in ("weight", "bias") else (name, "")


def quantization(plan: list[Move]) -> dict[str, Any] | None:
    """config.json's ``quantization`` as mlx-lm writes it: the commonest setting, and a row per module that differs."""
    own: dict[str, dict] = {}
    for move in plan:
        if move.quantized:
            settings = {"group_size": 32, "bits": BITS.get(move.tensor.block.name, 8), "mode": "affine"}
            if move.tensor.block.name == "MXFP4":
                settings["mode"] = "mxfp4"
            own.update(dict.fromkeys(_modules(move), settings))
    if not own:
        return None
    values = list(own.values())
    default = max(values, key=values.count) if len(values) < 4000 else values[0]
    return {**default, **{path: settings for path, settings in own.items() if settings != default}}


BITS = {"Q4_0": 4, "Q4_1": 4, "Q4_K": 4, "MXFP4": 4, "Q5_0": 5, "Q5_1": 5, "Q5_K": 5}


def _modules(move: Move) -> list[str]:
    if move.kind == "qkv":
        return [f"{move.path}.{part}_proj" for part in "qkv"]
    if move.kind == "gate_up":
        return [f"{move.path}.{part}_proj" for part in ("gate", "up")]
    if move.kind == "ba":
        return [f"{move.path}.in_proj_{part}" for part in "ba"]
    return [move.path]


def converted(move: Move, shapes: Shapes) -> Iterator[Piece]:
    """The parameters that a tensor becomes, in numpy: safe in any thread. Raises WeightError for impossible shapes."""
    kind, tensor = move.kind, move.tensor
    if kind in ("qkv", "gate_up"):
        yield from _split(move, shapes)
    elif kind == "kv_b":
        yield from _latent(move, shapes)
    elif kind == "ba":
        yield from _beta_alpha(move, shapes)
    elif kind in ORDERS:
        yield from _module(move, shapes, ORDERS[kind](tensor, shapes))
    elif kind == "v_columns":
        yield from _columns(move, shapes)
    elif kind in ("module", "vector", "less_one", "numbers"):
        yield from _module(move, shapes)
    elif kind in ("half0", "half1"):  # of a fused projection; GGUF.load_weights joins them
        yield from ((f"{name}#{kind[-1]}", values, dtype) for name, values, dtype in _module(move, shapes))
    elif kind in ("conv", "v_conv"):
        values = floats(tensor)
        values = values[_qkv_order(tensor, shapes)] if kind == "v_conv" else values
        yield (f"{move.path}.bias", values, None) if move.suffix == "bias" else (f"{move.path}.weight",
                                                                                 values[..., None], None)
    elif kind == "stack":
        yield from ((f"{move.path}.{i}.weight", values, None) for i, values in enumerate(numbers(tensor)))
    else:
        values = VALUES[kind.removeprefix("v_")](tensor)
        yield move.path, values[_v_order(shapes)] if kind.startswith("v_") else values, None


def as_mlx(values: np.ndarray, dtype: mx.Dtype | None) -> mx.array:
    """An MLX array of the values, in ``dtype`` if one is given; whole numbers of 16 bits are bfloat16 in disguise."""
    array = mx.array(values)
    if values.dtype == np.uint16:
        array = array.view(mx.bfloat16)
    return array if dtype is None else array.astype(dtype)


def _a_log(tensor: Tensor) -> np.ndarray:
    """llama.cpp stores A = -exp(A_log)."""
    a = floats(tensor)
    if not (a < 0).all():
        raise WeightError("A must be negative", where=tensor.where)
    return np.log(-a)


VALUES: dict[str, Callable[[Tensor], np.ndarray]] = {
    "value": lambda tensor: floats(tensor),
    "flat": lambda tensor: floats(tensor).reshape(-1),
    "row": lambda tensor: floats(tensor).reshape(1, -1),
    "scalar": lambda tensor: floats(tensor).reshape(1),
    "a_log": lambda tensor: _a_log(tensor).reshape(-1),
    "a_log_wide": lambda tensor: _a_log(tensor),
}


def _v_order(shapes: Shapes) -> np.ndarray:
    """A gated delta net's value heads as they were, by key head: llama.cpp has them dealt out over the key heads."""
    keys, values = max(shapes.k_heads, 1), shapes.v_heads
    return np.arange(values).reshape(-1, keys).T.reshape(-1) if values % keys == 0 else np.arange(values)


def _v_rows(tensor: Tensor, shapes: Shapes, first: int = 0) -> np.ndarray:
    """The rows as they were, those of value heads from ``first`` on reordered."""
    rows = tensor.shape[0] - first
    if rows < 0 or shapes.v_heads < 1 or rows % shapes.v_heads:
        raise WeightError("the rows can't be value heads", where=tensor.where, found=tensor.shape,
                          expected=f"{shapes.v_heads} heads")
    wide = rows // shapes.v_heads
    heads = (_v_order(shapes)[:, None] * wide + np.arange(wide)).reshape(-1)
    return np.concatenate([np.arange(first), first + heads])


def _qkv_order(tensor: Tensor, shapes: Shapes) -> np.ndarray:
    return _v_rows(tensor, shapes, 2 * shapes.k_heads * shapes.k_dim)


ORDERS: dict[str, Callable[[Tensor, Shapes], np.ndarray]] = {
    "q": lambda tensor, shapes: _rope_order(tensor, shapes.heads),
    "k": lambda tensor, shapes: _rope_order(tensor, shapes.kv_heads),
    "v_rows": _v_rows,
    "qkv_v": _qkv_order,
}


def _columns(move: Move, shapes: Shapes) -> Iterator[Piece]:
    """A module whose inputs are value heads, which go back to their places; what is packed moves by whole groups."""
    for name, values, dtype in _module(move, shapes):
        columns = values.shape[-1]
        if columns % max(shapes.v_heads, 1):
            raise WeightError("the columns can't be value heads", where=move.tensor.where, found=move.tensor.shape)
        apart = values.reshape(*values.shape[:-1], shapes.v_heads, -1)
        yield name, np.ascontiguousarray(apart[..., _v_order(shapes), :].reshape(values.shape)), dtype


def _beta_alpha(move: Move, shapes: Shapes) -> Iterator[Piece]:
    """b and a of each value head, which lie together by key head."""
    each = shapes.v_heads // max(shapes.k_heads, 1)
    rows = np.arange(move.tensor.shape[0]).reshape(shapes.k_heads, 2, each)
    for name, values, dtype in _module(replace(move, path=""), shapes):
        for i, path in enumerate(_modules(move)):
            yield path + name, np.ascontiguousarray(values[rows[:, i].reshape(-1)]), dtype


def _module(move: Move, shapes: Shapes, order: np.ndarray | None = None) -> Iterator[Piece]:
    """A module's weight (a triple where it is quantized) or bias, its rows put in ``order``."""
    tensor = move.tensor
    if move.quantized:
        yield from _triple(move.path, repack(tensor, tensor.data if order is None else tensor.data[order]), shapes)
        return
    values = numbers(tensor)
    if order is not None:
        values = values[order]
    if move.kind == "less_one":
        values = floats(tensor) - np.float32(1)  # the layer adds it again; exact from 0.5 on
    vector = move.suffix == "bias" or move.kind in ("vector", "less_one")
    dtype = shapes.vector_dtype if vector and values.dtype == np.float32 else None
    yield f"{move.path}.{move.suffix or 'weight'}", values, dtype


def _triple(path: str, packed: Packed, shapes: Shapes) -> Iterator[Piece]:
    yield f"{path}.weight", packed.weight, None
    yield f"{path}.scales", packed.scales, None if packed.biases is None else shapes.scale_dtype
    if packed.biases is not None:
        yield f"{path}.biases", packed.biases, shapes.scale_dtype


def _of_layer(heads: int | list[int], move: Move) -> int:
    if isinstance(heads, int):
        return heads
    layer = re.search(r"layers\.(\d+)\.", move.path)
    return heads[int(layer[1])] if layer else heads[0]


def _rope_order(tensor: Tensor, heads: Any) -> np.ndarray:
    """The rows as they were: llama.cpp has each head's two halves interleaved, for rotary pairs of neighbours."""
    rows = tensor.shape[0] if tensor.shape else 0
    if heads < 1 or rows % (2 * heads) or len(tensor.shape) > 2:
        raise WeightError("the rows can't be heads", where=tensor.where, found=tensor.shape, expected=f"{heads} heads")
    return np.arange(rows).reshape(heads, -1, 2).swapaxes(1, 2).reshape(-1)


def _split(move: Move, shapes: Shapes) -> Iterator[Piece]:
    """A fused projection, cut along its output rows."""
    axis = -1 if move.suffix == "bias" else -2
    if len(move.tensor.shape) < -axis:
        raise WeightError("the fused projection can't be cut", where=move.tensor.where, found=move.tensor.shape)
    rows = move.tensor.shape[axis]
    q, kv = (n * shapes.head_dim for n in (_of_layer(shapes.heads, move), _of_layer(shapes.kv_heads, move)))
    cuts = [0, q, q + kv, q + 2 * kv] if move.kind == "qkv" else [0, rows // 2, rows]
    if cuts[-1] != rows:
        raise WeightError("the fused projection can't be cut", where=move.tensor.where, found=f"{rows} rows",
                          expected=cuts[-1])
    pieces = list(_module(replace(move, path=""), shapes))
    for path, start, end in zip(_modules(move), cuts[:-1], cuts[1:], strict=True):
        for name, values, dtype in pieces:
            part = values[..., start:end] if axis == -1 else values[..., start:end, :]
            yield path + name, np.ascontiguousarray(part), dtype


def _latent(move: Move, shapes: Shapes) -> Iterator[Piece]:
    """kv_b_proj of files made before llama.cpp split it: one part is folded into the queries, one into the output."""
    values, count = floats(move.tensor), _of_layer(shapes.heads, move)
    if values.ndim != 2 or values.shape[0] % count or values.shape[0] // count <= shapes.nope_dim:
        raise WeightError("kv_b_proj can't be split into heads", where=move.tensor.where, found=values.shape)
    heads = values.reshape(count, -1, values.shape[1])
    yield f"{move.path}.embed_q.weight", np.ascontiguousarray(heads[:, : shapes.nope_dim].swapaxes(1, 2)), None
    yield f"{move.path}.unembed_out.weight", np.ascontiguousarray(heads[:, shapes.nope_dim :]), None
