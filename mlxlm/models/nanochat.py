"""nanochat: norms without weights, on embeddings and heads too; the rope turns backwards, logits are softcapped."""

from dataclasses import dataclass
from functools import partial

import mlx.core as mx

from .. import recipe
from ..architecture import Architecture
from ..config import DecoderConfig
from ..decoder import Backbone, Decoder
from ..layers import MLP, BareRMSNorm, LateNormAttention, PreNorm, activation, softcap
from ..weights import GPT_BODY, GPT_NAMES, Rename, backwards


@dataclass(kw_only=True)
class Config(DecoderConfig):
    hidden_act: str = "relu2"
    attention_bias: bool = False
    final_logit_softcapping: float | None = 15.0
    logits_soft_cap: float | None = None  # an older word for it

    def __post_init__(self):
        super().__post_init__()
        self.final_logit_softcapping = self.logits_soft_cap or self.final_logit_softcapping


class Body(Backbone):
    """A body that norms the embeddings before the first layer, as it does after the last."""

    def __call__(self, x, state, positions=None, shared=None):
        return super().__call__(self[self._names[1]](x), state, positions, shared)


def unwinding(rope):
    """A rope that turns the other way: one that sees the halves of each head exchanged."""

    def exchanged(x: mx.array) -> mx.array:
        first, second = mx.split(x, 2, axis=-1)
        return mx.concatenate([second, first], axis=-1)

    return lambda x, step: exchanged(rope(exchanged(x), step))


def build(c: Config) -> Decoder:
    norm, rope = recipe.norm(c, BareRMSNorm), unwinding(recipe.rope(c))
    head_norm, act = partial(BareRMSNorm, c.head_dim, c.rms_norm_eps), activation(c.hidden_act)

    def block(i: int) -> PreNorm:
        attention = recipe.attention(
            c, LateNormAttention, rope=rope, q_norm=head_norm(), k_norm=head_norm(), bias=c.attention_bias
        )
        return PreNorm(attention, MLP(c.hidden_size, c.intermediate_size, act=act), norm)

    finish = partial(softcap, cap=c.final_logit_softcapping) if c.final_logit_softcapping else None
    return recipe.decoder(c, block, norm, finish=finish, backbone=Body)


BODY = (
    *GPT_BODY,
    Rename("layers.*.attn", "layers.*.self_attn"),
    *(Rename(f"self_attn.c_{part}", f"self_attn.{part}_proj") for part in "qkv"),
    Rename("self_attn.c_proj", "self_attn.o_proj"),
    Rename("mlp.c_fc", "mlp.up_proj"),
    Rename("mlp.c_proj", "mlp.down_proj"),
)
NAMES = (*GPT_NAMES, *BODY[len(GPT_BODY) :], Rename("mlp.fc1", "mlp.up_proj"), Rename("mlp.fc2", "mlp.down_proj"))
ARCHITECTURE = Architecture(Config, build, NAMES, saved=backwards(Rename("^transformer", "model"), *BODY))
