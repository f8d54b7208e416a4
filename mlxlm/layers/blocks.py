"""The residual shapes; a model whose shape isn't here writes its own block, as they are this short.

A mixer is a layer with ``make_cache()`` that is called with ``(x, cache, step)``; everything else takes ``x``.
"""

import mlx.nn as nn

from ..cache import NoCache
from . import fused
from .plan import OWN, Parts


class PreNorm(nn.Module):
    """x + mix(norm(x)), then x + mlp(norm(x)): the usual shape.

    ``names`` are the checkpoint's for the mixer, the MLP and the norm before either.
    """

    NAMES = ("self_attn", "mlp", "input_layernorm", "post_attention_layernorm")

    def __init__(self, mixer, mlp, norm, *, residual: float = 1.0, names: tuple[str, str, str, str] = NAMES):
        super().__init__()
        self._names, self._residual = names, residual
        for name, part in zip(names, (mixer, mlp, norm(), norm()), strict=True):
            self[name] = part

    def make_cache(self):
        return self[self._names[0]].make_cache()

    def parts(self) -> Parts | None:
        """What `fused` asks for; None where the residual isn't plain."""
        mixer, mlp, before, between = (self[name] for name in self._names)
        feeds = type(self).feed is PreNorm.feed
        return (mixer, mlp if feeds else OWN, before, None, between, None) if self._residual == 1.0 else None

    def __call__(self, x, cache, step):
        done = fused.run(self, x, cache, step)
        if done is None:
            x = x + self._scaled(self[self._names[0]](self[self._names[2]](x), cache, step))
        else:
            x, whole = done
            if whole:
                return x
        return x + self._scaled(self.feed(self[self._names[3]](x)))

    fused_call = __call__

    def feed(self, x):
        """The second half's work, norms aside."""
        return self[self._names[1]](x)

    def _scaled(self, x):
        return x if self._residual == 1.0 else x * self._residual


class Sandwich(nn.Module):
    """A norm on either side of both; ``names`` are the checkpoint's for the two norms of the MLP."""

    NAMES = ("pre_feedforward_layernorm", "post_feedforward_layernorm")

    def __init__(self, mixer, mlp, norm, *, names: tuple[str, str] = NAMES):
        super().__init__()
        self._names = names
        self.self_attn, self.mlp = mixer, mlp
        self.input_layernorm, self.post_attention_layernorm = norm(), norm()
        self[names[0]], self[names[1]] = norm(), norm()

    def make_cache(self):
        return self.self_attn.make_cache()

    def parts(self) -> Parts:
        """What `fused` asks for."""
        before, after = self[self._names[0]], self[self._names[1]]
        return self.self_attn, self.mlp, self.input_layernorm, self.post_attention_layernorm, before, after

    def __call__(self, x, cache, step):
        done = fused.run(self, x, cache, step)
        if done is None:
            x = x + self.post_attention_layernorm(self.self_attn(self.input_layernorm(x), cache, step))
        else:
            x, whole = done
            if whole:
                return x
        return x + self[self._names[1]](self.mlp(self[self._names[0]](x)))

    fused_call = __call__


class PostNorm(nn.Module):
    """x + norm(mix(x)), then x + norm(mlp(x))."""

    def __init__(self, mixer, mlp, norm):
        super().__init__()
        self.self_attn, self.mlp = mixer, mlp
        self.post_attention_layernorm, self.post_feedforward_layernorm = norm(), norm()

    def make_cache(self):
        return self.self_attn.make_cache()

    def __call__(self, x, cache, step):
        x = x + self.post_attention_layernorm(self.self_attn(x, cache, step))
        return x + self.post_feedforward_layernorm(self.mlp(x))


class Parallel(nn.Module):
    """x + mix(norm(x)) + mlp(norm(x)), one norm for both."""

    def __init__(self, mixer, mlp, norm):
        super().__init__()
        self.self_attn, self.mlp, self.input_layernorm = mixer, mlp, norm()

    def make_cache(self):
        return self.self_attn.make_cache()

    def __call__(self, x, cache, step):
        h = self.input_layernorm(x)
        return x + self.self_attn(h, cache, step) + self.mlp(h)


class MixerOnly(nn.Module):
    """x + mixer(norm(x)), where the mixer may or may not have a memory."""

    def __init__(self, mixer, norm):
        super().__init__()
        self.mixer, self.norm = mixer, norm

    def make_cache(self):
        return self.mixer.make_cache() if hasattr(self.mixer, "make_cache") else NoCache()

    def parts(self) -> Parts:
        """What `fused` asks for."""
        if hasattr(self.mixer, "make_cache"):
            return self.mixer, None, self.norm, None, None, None
        return None, self.mixer, None, None, self.norm, None

    def __call__(self, x, cache, step):
        h = self.norm(x)
        return x + (self.mixer(h) if isinstance(cache, NoCache) else self.mixer(h, cache, step))

    fused_call = __call__
