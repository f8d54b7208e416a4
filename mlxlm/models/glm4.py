"""GLM 4 0414 and Z1: GLM with a second norm behind attention and MLP."""

from functools import partial

from ..architecture import Architecture
from ..layers import PreNorm
from ..weights import FUSED_MLP, backwards
from . import glm


class Block(PreNorm):
    """A norm on either side of both; the checkpoint calls the one before the MLP ``post_attention_layernorm``."""

    def __init__(self, mixer, mlp, norm):
        super().__init__(mixer, mlp, norm)
        self.post_self_attn_layernorm, self.post_mlp_layernorm = norm(), norm()

    def __call__(self, x, cache, step):
        mixer, mlp, before, between = (self[name] for name in self._names)
        x = x + self.post_self_attn_layernorm(mixer(before(x), cache, step))
        return x + self.post_mlp_layernorm(mlp(between(x)))


BUILD = partial(glm.build, shape=Block)
ARCHITECTURE = Architecture(glm.Config, BUILD, (FUSED_MLP,), saved=backwards(FUSED_MLP))
