"""config.json to a dataclass: Hugging Face's dialects made one, at the border, and nothing that matters ignored.

Inside there is one spelling: transformers 5's ``rope_parameters`` (flat, or one dict for each layer type), with
``rope_theta``, ``partial_rotary_factor`` and ``original_max_position_embeddings`` in it.
"""

import difflib
import math
import types
import typing
import warnings
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any

from .errors import ConfigError

# Keys that change no logits of a decoder in inference, whatever their value.
# fmt: off
HARMLESS = frozenset((
    "architectures", "attention_dropout", "attn_dropout", "attn_implementation", "audio_config", "auto_map",
    "aux_loss_alpha", "base_model_pp_plan", "base_model_tp_plan", "boi_token_id", "boi_token_index", "bos_token_id",
    "cache_implementation", "chunk_size", "chunk_size_feed_forward", "classifier_dropout", "cls_token_id",
    "conversation_type", "decoder_start_token_id", "do_sample", "dropout", "dtype", "embd_pdrop", "eoi_token_id",
    "eoi_token_index", "eos_token_id", "ep_size", "experts_implementation", "finetuning_task",
    "forced_bos_token_id", "forced_eos_token_id", "fused_add_norm", "gradient_checkpointing", "head_type",
    "hidden_dropout", "id2label", "ignore_keys_at_rope_validation", "image_token_id", "image_token_index",
    "initial_context_length", "initializer_factor", "initializer_range", "is_decoder", "is_encoder_decoder",
    "is_llama_config", "keys_to_ignore_at_inference", "label2id", "language", "license", "mamba_chunk_size",
    "mamba_ssm_cache_dtype", "max_length", "max_seq_len", "metadata", "min_length", "mm_tokens_per_image",
    "model_max_length", "model_type", "moe_shared_expert_overlap", "mtp_hybrid_override_pattern",
    "mtp_layers_block_type", "mtp_loss_scaling_factor", "name_or_path", "num_labels", "num_logits_to_keep",
    "num_nextn_predict_layers", "output_attentions", "output_hidden_states", "output_router_logits", "pad_token_id",
    "pad_vocab_size_multiple", "prefix", "pretraining_seq_length", "problem_type", "pruned_heads", "quantization",
    "quantization_config", "repetition_penalty", "rescale_prenorm_residual", "resid_pdrop", "residual_in_fp32",
    "return_dict", "rope_interleave_factor", "router_aux_loss_coef", "router_dropout", "router_jitter_noise",
    "sep_token_id", "seq_aux", "summary_activation", "swiglu_limit_dtype", "task_specific_params", "temperature",
    "tf_legacy_loss", "tie_encoder_decoder", "time_step_floor", "time_step_init_scheme", "time_step_max",
    "time_step_rank", "time_step_scale", "tokenizer_class", "top_k", "top_p", "torch_dtype", "torchscript",
    "transformers.js_config", "transformers_version", "unsloth_fixed", "unsloth_version", "use_associative_scan",
    "use_bfloat16", "use_cache", "use_falcon_mambapy", "use_flash_attention_2", "use_flash_attn",
    "use_mamba_kernels", "use_mambapy", "use_residual_in_fp32", "video_token_id", "video_token_index",
    "vision_config",
))
# fmt: on

# Parts of the names of keys that do change logits somewhere: one that a model doesn't honour is an error.
TELLING = (
    "act",
    "rope",
    "rotary",
    "window",
    "scal",
    "multiplier",
    "softcap",
    "norm",
    "bias",
    "sink",
    "tie_",
    "expert",
    "moe",
    "group",
    "rank",
    "head",
    "hidden",
    "layer",
    "attention",
    "mlp",
    "position",
    "clip",
    "limit",
    "theta",
    "alibi",
    "parallel",
    "residual",
    "embedding",
    "conv",
    "ssm",
    "mamba",
    "time_step",
    "chunk",
    "gate",
    "vocab",
)

# Spellings of one field: a config may use another one than the model's class does.
SYNONYMS = (
    ("hidden_size", "n_embd", "d_model", "model_dim"),
    ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_transformer_layers"),
    ("num_attention_heads", "n_head", "n_heads"),
    ("num_key_value_heads", "n_kv_heads"),
    ("max_position_embeddings", "n_positions"),
    ("intermediate_size", "n_inner"),
    ("hidden_act", "activation_function"),
    ("num_experts", "num_local_experts", "n_routed_experts"),
    ("num_experts_per_tok", "num_experts_per_token", "experts_per_token", "num_experts_per_topk"),
    ("layer_norm_epsilon", "norm_eps", "norm_epsilon", "layer_norm_eps", "layernorm_epsilon", "rms_norm_eps"),
    ("n_shared_experts", "num_shared_experts"),
    ("expand", "mamba_expand"),
)

_NEUTRAL = (None, False, 0, 1, 1.0, "", "none", "default")
_ROPE_TYPES = {"su": "longrope", "mrope": "default"}


@dataclass(kw_only=True)
class DecoderConfig:
    """What nearly every decoder's config.json says, under the names that it uses."""

    hidden_size: int
    num_hidden_layers: int
    vocab_size: int
    model_type: str = ""
    num_attention_heads: int = 0
    num_key_value_heads: int = 0  # num_attention_heads where the config has none
    head_dim: int = 0  # hidden_size / num_attention_heads where the config has none
    intermediate_size: int = 0
    hidden_act: str = "silu"
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10_000.0  # where rope_parameters has none, as partial_rotary_factor
    partial_rotary_factor: float = 1.0
    rope_parameters: dict | None = None
    max_position_embeddings: int = 2048
    tie_word_embeddings: bool = False

    def __post_init__(self):
        for name in ("hidden_size", "vocab_size", "num_hidden_layers", "max_position_embeddings"):
            positive(self, name, 1 << 20 if name == "num_hidden_layers" else 1 << 40)
        if self.num_attention_heads:
            self.num_key_value_heads = self.num_key_value_heads or self.num_attention_heads
            self.head_dim = self.head_dim or self.hidden_size // self.num_attention_heads
            positive(self, "head_dim", 1 << 16)  # ropes are made at once
            if self.num_key_value_heads < 0 or self.num_attention_heads % self.num_key_value_heads:
                raise ConfigError(
                    "num_attention_heads isn't a multiple of num_key_value_heads",
                    where="config.json",
                    found=f"{self.num_attention_heads} and {self.num_key_value_heads}",
                )

    def rope(self, layer_type: str | None = None) -> dict:
        """The RoPE settings of a kind of layer, with rope_theta and partial_rotary_factor filled in."""
        settings = self.rope_parameters or {}
        if layer_type is not None and isinstance(settings.get(layer_type), dict):
            settings = settings[layer_type]
        defaults = {"rope_theta": self.rope_theta, "partial_rotary_factor": self.partial_rotary_factor}
        return {"rope_type": "default", **defaults, **settings}


def positive(config: Any, name: str, most: int = 1 << 40) -> None:
    """Raise unless the field holds a whole number from 1 to ``most``."""
    value = getattr(config, name)
    if not isinstance(value, int) or not 0 < value <= most:
        raise ConfigError(f"{name} must be a whole number above 0", where="config.json", found=repr(value))


def text_part(raw: dict[str, Any]) -> dict[str, Any]:
    """The text half of a multimodal config, or the config itself; the root's own keys win where both speak."""
    for key in ("text_config", "llm_config", "language_config"):
        inner = raw.get(key)
        if isinstance(inner, dict):
            keep = ("quantization", "quantization_config", "tie_word_embeddings", "model_type")
            return {**inner, **{k: raw[k] for k in keep if k in raw}}
    return raw


def normalize(raw: dict[str, Any], where: str = "config.json") -> dict[str, Any]:
    """``raw`` in the one dialect: rope settings, layer types and dead windows."""
    if not isinstance(raw, dict):
        raise ConfigError("it isn't a JSON object", where=where, found=type(raw).__name__)
    out = {key: _plain(value) for key, value in raw.items()}
    settings = _rope_settings(out, where)
    if settings:
        out["rope_parameters"] = settings
    if out.pop("use_sliding_window", None) is False:
        out["sliding_window"] = None
        if isinstance(out.get("layer_types"), list) and set(out["layer_types"]) <= _ATTENTION_KINDS:
            out["layer_types"] = None
    return out


def _plain(value: Any) -> Any:
    """A value as it is, with numbers that JSON can't hold (``{"__float__": "Infinity"}``) as floats."""
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if isinstance(value, dict) and value.keys() == {"__float__"} and value["__float__"] in _FLOATS:
        return float(value["__float__"])
    return value


_FLOATS = {"Infinity", "-Infinity", "NaN"}
_ATTENTION_KINDS = {"full_attention", "sliding_attention"}


def _rope_settings(out: dict, where: str) -> dict | None:
    """Takes every spelling of the rope settings out of the config and returns one."""
    new, old = out.pop("rope_parameters", None), out.pop("rope_scaling", None)
    for name, value in (("rope_parameters", new), ("rope_scaling", old)):
        if value is not None and not isinstance(value, dict):
            raise ConfigError(f"{name} must be an object", where=where, found=repr(value)[:60])
    shared = {
        k: out.pop(k)
        for k in ("rope_theta", "partial_rotary_factor", "original_max_position_embeddings")
        if out.get(k) is not None
    }
    if new and any(isinstance(v, dict) for v in new.values()):
        out.pop("rope_local_base_freq", None)  # the older word for what stands there
        return {kind: _rope_kind({**shared, **v}) if isinstance(v, dict) else v for kind, v in new.items()}
    settings = _rope_kind({**shared, **(old or {}), **(new or {})})
    if (local := out.pop("rope_local_base_freq", None)) is not None:
        return {"full_attention": settings, "sliding_attention": {"rope_type": "default", "rope_theta": local}}
    return settings or None


def _rope_kind(settings: dict) -> dict:
    """``type`` and old names of a kind to ``rope_type``."""
    settings = {k: v for k, v in settings.items() if v is not None or k == "factor"}
    kind = settings.pop("type", None)
    kind = settings.get("rope_type", kind)
    if kind is not None:
        settings["rope_type"] = _ROPE_TYPES.get(str(kind), kind)
    return settings


def older_words(config: dict[str, Any]) -> dict[str, Any]:
    """The config with transformers 5's words in transformers 4's too, for programs that read those.

    Keys that stand there already stay. Settings of ropes by layer type have older words only as far as Gemma 3's reach.
    """
    older = _older_ropes(config)
    if older.get("num_local_experts") is not None:
        older.setdefault("num_experts", older["num_local_experts"])
    return older


def _older_ropes(config: dict[str, Any]) -> dict[str, Any]:
    rope = config.get("rope_parameters")
    if not isinstance(rope, dict):
        return dict(config)
    older: dict[str, Any] = {}
    kinds = [v for v in rope.values() if isinstance(v, dict) and "rope_theta" in v]
    if kinds and len(kinds) == len(rope) and "full_attention" in rope:
        if "sliding_attention" in rope and len(rope) == 2:
            older["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = {k: v for k, v in rope["full_attention"].items() if k != "partial_rotary_factor"}
    elif any(isinstance(v, dict) for v in rope.values()):
        return dict(config)
    older |= {k: rope[k] for k in ("rope_theta", "partial_rotary_factor") if k in rope}
    kind = rope.get("rope_type", rope.get("type", "default"))
    older["rope_scaling"] = None if kind in (None, "default") else {**rope, "type": kind, "rope_type": kind}
    return {**older, **{k: v for k, v in config.items() if v is not None or k not in older}}


def read(cls: type, raw: dict[str, Any], where: str = "config.json") -> Any:
    """Builds ``cls`` from a normalised config: fields are typed, missing ones are named, and unknown keys judged."""
    hints = typing.get_type_hints(cls)
    known = {f.name: f for f in fields(cls)}
    raw = _one_spelling(raw, known, where)
    missing = [
        n
        for n, f in known.items()
        if raw.get(n) is None
        and f.default is MISSING
        and f.default_factory is MISSING
        and not _admits(hints[n], raw.get(n, MISSING))
    ]
    if missing:
        raise ConfigError(
            f"{', '.join(missing)} missing",
            where=where,
            expected=f"the fields of {raw.get('model_type')!r}",
            hint="Is this the model's own config.json, and complete?",
        )
    values = {}
    for name, value in raw.items():
        if name in getattr(cls, "UNREAD", ()):
            continue  # the class knows it and knows that it changes nothing
        if name not in known:
            _judge(name, value, known, where, raw.get("model_type"))
        elif value is None and known[name].default is not MISSING and not _admits(hints[name], None):
            continue  # null stands for the default
        else:
            values[name] = _typed(name, value, hints[name], where)
    return cls(**values)


def _one_spelling(raw: dict[str, Any], known: dict, where: str) -> dict[str, Any]:
    """Synonyms to the spelling that the model's class has; two that disagree are an error."""
    out = dict(raw)
    for group in SYNONYMS:
        ours = [n for n in group if n in known]
        if len(ours) != 1:
            continue
        for other in (n for n in group if n not in known and n in out):
            value = out.pop(other)
            if value is not None and out.setdefault(ours[0], value) != value:
                raise ConfigError(
                    f"{ours[0]} and {other} disagree", where=where, found=f"{out[ours[0]]!r} and {value!r}"
                )
    return out


def may_matter(name: str, value: Any) -> bool:
    """Whether a key that a model doesn't know could change its numbers, judged by its name and value."""
    return not _harmless(name, value) and any(part in name for part in TELLING)


def _harmless(name: str, value: Any) -> bool:
    ends = ("token_id", "dropout", "dropout_prob", "pdrop", "softmax_in_fp32")
    return name in HARMLESS or name.startswith(("_", "summary_")) or name.endswith(ends) or _neutral(value)


def _judge(name: str, value: Any, known: dict, where: str, model_type: Any) -> None:
    """An unknown key: silence where it can't matter, an error where it changes the numbers, else a word."""
    if _harmless(name, value):
        return
    if may_matter(name, value):
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
        raise ConfigError(
            f"{name} may change the numbers, and {model_type!r} here doesn't honour it",
            where=where,
            found=repr(value)[:80],
            hint=f"Did you mean {close[0]}?" if close else "Without it the model would answer wrongly in silence.",
        )
    warnings.warn(f"{where}: {name} is not known and is ignored (value {repr(value)[:60]})", stacklevel=4)


def _neutral(value: Any) -> bool:
    if isinstance(value, list | tuple | dict):
        return not value
    return any(value is n or (type(value) is type(n) and value == n) for n in _NEUTRAL)


def _admits(hint: Any, value: Any) -> bool:
    if value is MISSING:
        return False
    return value is None and type(None) in typing.get_args(hint)


def _typed(name: str, value: Any, hint: Any, where: str) -> Any:
    """``value`` if it is of the field's type (an int will do for a float), else ConfigError."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for option in options:
        kind = typing.get_origin(option) or option
        if is_dataclass(kind) and isinstance(value, dict):
            inner = f"{where}, {name}"
            return read(kind, normalize(value, inner), inner)  # type: ignore[arg-type]
        if kind is Any or (kind is type(None) and value is None):
            return value
        if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
            if math.isnan(value):
                break
            return float(value)
        if kind is int and isinstance(value, float) and value.is_integer():
            return int(value)
        if kind is tuple and isinstance(value, list):
            return tuple(value)
        if isinstance(kind, type) and isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
            return value
    names = " or ".join(getattr(o, "__name__", str(o)) for o in options)
    raise ConfigError(f"{name} has the wrong type", where=where, found=repr(value)[:80], expected=names)
