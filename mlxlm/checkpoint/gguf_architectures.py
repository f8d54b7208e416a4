"""llama.cpp's architecture names to ours: one table of all, and the reading of a file's metadata by its row."""

from typing import Any

from ..errors import ConfigError
from .gguf_config import FIRST, common, special_tokens
from .gguf_dense import DENSE
from .gguf_gemma import OWN
from .gguf_halves import HALVES
from .gguf_header import Tensor
from .gguf_keys import Keys
from .gguf_names import Reading, To
from .gguf_recurrent import RECURRENT
from .gguf_sparse import SPARSE

ARCHITECTURES: dict[str, Reading] = {**FIRST, **DENSE, **SPARSE, **RECURRENT, **OWN, **HALVES}


def reading(metadata: dict[str, Any], where: object) -> Reading:
    """The row of the file's ``general.architecture``, else ConfigError."""
    name = metadata.get("general.architecture")
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise ConfigError("this architecture can't be read from GGUF yet", where=where, found=repr(name),
                          expected=", ".join(sorted(ARCHITECTURES)), hint="Use the model's safetensors if it has some.")
    return ARCHITECTURES[name]


def config(metadata: dict[str, Any], tensors: dict[str, Tensor],
           where: object) -> tuple[dict[str, Any], dict[str, To], dict[str, float]]:
    """(config.json's content, the tensors' places, parameters that the metadata holds) of a file.

    Raises ConfigError for what is missing, wrong or not known.
    """
    for key, kinds in (("general.type", ("model",)), ("split.no", (0, None))):
        if key in metadata and metadata[key] not in kinds:
            raise ConfigError("the file doesn't hold a model", where=where, found=f"{key} = {metadata[key]!r}")
    row = reading(metadata, where)
    keys = Keys(metadata, tensors, where)
    out = common(keys, row.model_type)
    row.config(keys, out)
    values = row.values(keys, out["num_hidden_layers"]) if row.values else {}
    keys.finish()
    table = row.table if isinstance(row.table, dict) else row.table(keys)
    return {k: v for k, v in {**out, **special_tokens(metadata)}.items() if v is not None}, table, values


# Types that a file of the architecture may turn out to hold, beside the row's own.
ALSO = {
    "llama": ("mistral", "mixtral"), "deepseek2": ("deepseek_v2", "glm4_moe_lite", "kimi_k2"),
    "mamba": ("falcon_mamba",),
    "olmo2": ("olmo3",), "qwen2": ("acereason",), "gemma3": ("gemma3",), "gemma3n": ("gemma3n",), "gemma4": ("gemma4",),
    "qwen35": ("qwen3_5",), "qwen35moe": ("qwen3_5_moe",), "jamba": ("jamba_3b",), "mistral3": ("mistral3",),
    "qwen2vl": ("qwen2_vl", "qwen2_5_vl", "qwen2_5_vl_text"), "qwen3vl": ("qwen3_vl",), "qwen3vlmoe": ("qwen3_vl_moe",),
    "deepseek2-ocr": ("deepseekocr",),
}  # fmt: skip
