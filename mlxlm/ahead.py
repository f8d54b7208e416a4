"""Layers that predict ahead, out of the checkpoints that have them: read as one more layer of the decoder they follow.

Loading leaves them out; `load_ahead` reads them for speculation. Facts: vLLM's models of the same names, which take the
hidden state after the final norm.
"""

from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx

from . import kernels
from .checkpoint import Checkpoint
from .errors import MLXLMError, WeightError
from .layers.ahead import Ahead
from .load import architecture_of, quantization
from .strict import load_strictly, quantize_structure
from .weights import Weights, apply, rename_path


@dataclass(frozen=True)
class Spelling:
    """How a family's checkpoints call the parts; ``{n}`` is the number of the decoder's layers."""

    block: str
    parts: dict[str, str]  # ours to theirs
    hidden_first: bool = False
    carries_normed: bool = True


SPELLINGS = (
    Spelling(
        "model.layers.{n}.",
        {
            "embed_norm": "model.layers.{n}.enorm",
            "hidden_norm": "model.layers.{n}.hnorm",
            "project": "model.layers.{n}.eh_proj",
            "norm": "model.layers.{n}.shared_head.norm",
        },
        carries_normed=False,
    ),
    Spelling(
        "mtp.layers.0.",
        {
            "embed_norm": "mtp.pre_fc_norm_embedding",
            "hidden_norm": "mtp.pre_fc_norm_hidden",
            "project": "mtp.fc",
            "norm": "mtp.norm",
        },
    ),
    Spelling(
        "model.mtp_layers.0.",
        {
            "embed_norm": "model.mtp_layers.0.token_layernorm",
            "hidden_norm": "model.mtp_layers.0.hidden_layernorm",
            "project": "model.mtp_layers.0.input_proj",
            "norm": "model.mtp_layers.0.final_layernorm",
        },
        hidden_first=True,
    ),
)
SHARED = ("embed_tokens", "shared_head.head")  # copies of the decoder's own
NORM = "input_layernorm"  # what a norm is called for the architecture's rules on values to find it


def load_ahead(model: Any, checkpoint: Checkpoint, model_config: dict[str, Any] | None = None) -> Ahead:
    """The first layer that predicts ahead, of the checkpoint that ``model`` is from.

    Raises WeightError where there is none, or none that is built like the decoder's layers.
    """
    _, architecture, raw, where = architecture_of(checkpoint, model_config)
    config, count = model.config, getattr(model.config, "num_hidden_layers", 0)
    weights = checkpoint.load_weights()
    spelling = next((s for s in SPELLINGS if f"{s.parts['project']}.weight".format(n=count) in weights), None)
    if spelling is None or not hasattr(model, "backbone"):
        hint = "Conversions leave such layers out: look for the original checkpoint."
        raise WeightError("no layer that predicts ahead is known in it", where=checkpoint.path, hint=hint)
    found = apply(architecture.names, _renamed(weights, spelling, count), config)
    if not checkpoint.is_mlx:
        found = apply(architecture.values, found, config)
    head = _built(architecture, config, count, spelling, where)
    if settings := quantization(raw, where):
        settings = {p: v for key, v in settings.items() for p in rename_path(architecture.names, key, config)}
        quantize_structure(head, found, settings, where)
    load_strictly(head, _placed(found, count), checkpoint.path)
    head.eval()
    kernels.install(head)
    mx.eval(head.parameters())
    return head


def _renamed(weights: Weights, spelling: Spelling, count: int) -> Weights:
    """The layer's tensors under the names of the decoder's layer ``count``, its other parts as layers of one norm."""
    block, out = spelling.block.format(n=count), {}
    parts = {theirs.format(n=count) + ".": ours for ours, theirs in spelling.parts.items()}
    for name, w in weights.items():
        part = next((p for p in parts if name.startswith(p)), None)
        if part is not None:
            kind = name.removeprefix(part)
            middle = "" if parts[part] == "project" else f"{NORM}."
            out[f"ahead.{parts[part]}.{middle}{kind}"] = w
        elif name.startswith(block) and not name.removeprefix(block).startswith(SHARED):
            out[f"model.layers.{count}.{name.removeprefix(block)}"] = w
    return out


def _placed(weights: Weights, count: int) -> Weights:
    """Names of the decoder's layer and of our own parts as those of an `Ahead`."""
    out = {}
    for name, w in weights.items():
        if name.startswith("ahead."):
            out[name.removeprefix("ahead.").replace(f".{NORM}.", ".")] = w
        else:
            out["block." + name.partition(f"layers.{count}.")[2]] = w
    return out


def _built(architecture: Any, config: Any, count: int, spelling: Spelling, where: object) -> Ahead:
    """The module, its block the last of a decoder that is one layer longer."""
    longer: dict[str, Any] = {"num_hidden_layers": count + 1}
    for name, last in (("layer_types", "full_attention"), ("mlp_layer_types", None)):
        kinds = getattr(config, name, None)
        if isinstance(kinds, list) and len(kinds) == count:
            longer[name] = [*kinds, last or kinds[-1]]
    try:
        decoder = architecture.build(replace(config, **longer))
    except (MLXLMError, ValueError, TypeError, IndexError) as e:
        raise WeightError(f"no layer after the last can be built ({e})", where=where) from e
    backbone = decoder.backbone
    norm, dim = backbone[backbone._names[1]], backbone.embedding.weight.shape[1]

    def like() -> Any:
        return type(norm)(dim, norm.eps)

    how = {"hidden_first": spelling.hidden_first, "carries_normed": spelling.carries_normed}
    return Ahead(dim, backbone.layers[-1], like, **how)
