"""Command R7B and Command A: Command R with three sliding layers for each full one, which has no positions."""

from dataclasses import dataclass

from .. import recipe
from ..architecture import Architecture
from ..decoder import Decoder
from . import cohere


@dataclass(kw_only=True)
class Config(cohere.Config):
    rope_theta: float = 10_000.0
    sliding_window: int = 4096
    sliding_window_pattern: int = 4
    layer_types: list[str] | None = None
    order_of_interleaved_layers: str = "local_attn_first"
    rotary_pct: float = 1.0
    position_embedding_type: str = "rope_gptj"
    use_embedding_sharing: bool = True
    use_gated_activation: bool = True
    use_parallel_block: bool = True
    use_parallel_embedding: bool = False
    layer_switch: int | None = None  # says the pattern again

    def __post_init__(self):
        super().__post_init__()
        recipe.only(
            self,
            use_qk_norm=False,
            order_of_interleaved_layers="local_attn_first",
            rotary_pct=1.0,
            position_embedding_type="rope_gptj",
            use_gated_activation=True,
            use_parallel_block=True,
        )


def build(c: Config) -> Decoder:
    every = c.sliding_window_pattern
    kinds = recipe.layer_types(
        c,
        lambda i: "sliding_attention" if (i + 1) % every else "full_attention",
        ("full_attention", "sliding_attention"),
    )
    return cohere.build(c, lambda i: c.sliding_window if kinds[i] == "sliding_attention" else None)


ARCHITECTURE = Architecture(Config, build)
