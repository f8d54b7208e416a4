"""GGUF's architectures that are text halves of vision-language models, whose towers lie in a file of their own."""

from typing import Any

from .gguf_config import GATING_SOFTMAX, dense, grouped, qwen3, qwen3_moe
from .gguf_keys import Keys
from .gguf_names import GROUPED, QWEN2, TABLES, Reading


def three_directions(k: Keys, out: dict[str, Any], interleaved: bool = False) -> None:
    """How the rope's pairs are shared out between time, height and width; text turns all alike."""
    k.get("n_deepstack_layers", int)  # places for what a tower adds to deeper layers: text adds nothing
    sections = k.get("rope.dimension_sections", list)
    if sections is not None:
        scaling = out["rope_scaling"] or {"rope_type": "default"}
        out["rope_scaling"] = {**scaling, "mrope_section": sections[:3], "mrope_interleaved": interleaved}


def qwen2_vl(k: Keys, out: dict[str, Any]) -> None:
    dense(k, out)
    three_directions(k, out)


def qwen3_vl(k: Keys, out: dict[str, Any]) -> None:
    qwen3(k, out)
    three_directions(k, out, interleaved=True)


def qwen3_vl_moe(k: Keys, out: dict[str, Any]) -> None:
    qwen3_moe(k, out)
    three_directions(k, out, interleaved=True)


def deepseek_ocr(k: Keys, out: dict[str, Any]) -> None:
    """DeepSeek V2 with Llama's attention. Converters say that 0 dimensions turn, and mean all."""
    dense(k, out, turned=False)
    out["rope_theta"] = k.get("rope.freq_base", float, 10_000.0)
    if k.get("rope.dimension_count", int, 0):
        k.only("rope.dimension_count", int, out["head_dim"])
    grouped(k, out)
    k.only("expert_gating_func", int, GATING_SOFTMAX)
    k.only("expert_weights_norm", bool, False)
    out |= {"use_mla": False, "scoring_func": "softmax", "topk_method": "greedy"}


HALVES: dict[str, Reading] = {
    "qwen2vl": Reading("qwen2_vl_text", QWEN2, qwen2_vl),
    "qwen3vl": Reading("qwen3_vl_text", TABLES["qwen3"], qwen3_vl),
    "qwen3vlmoe": Reading("qwen3_vl_moe_text", TABLES["qwen3moe"], qwen3_vl_moe),
    "deepseek2-ocr": Reading("deepseek_ocr", {**QWEN2, **GROUPED}, deepseek_ocr),
}
