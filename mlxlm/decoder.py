"""The skeleton that every decoder shares: embed, run the blocks, norm, project. What a pass shares is in its Step."""

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from .cache import State, bounded
from .errors import GenerationError
from .layers.fused import stacks


class Step:
    """What all layers of one forward pass share; made before the first of them runs, so it can't move under them.

    ``positions`` is an offset for all rows, an offset for each row (B,), or whatever a model's own rope takes.
    ``end`` is the number of positions taken when the pass is over: what length-dependent ropes look at.
    ``shared`` is what layers of this pass leave for later ones, and what came with the embeddings: ``together``
    (B, L) numbers the tokens that see each other whatever their order (0: none), ``together_near`` those that do so in
    layers with a window alone, and within it, ``("after", i)`` (B, L, dim) is added to what layer i gives.
    """

    def __init__(self, length: int, state: State, positions=None, shared: dict[Any, Any] | None = None):
        self.length, self.start = length, state.offset
        self.padding = None if state.left_padding is None else mx.array(state.left_padding)
        # Whether some of this pass's own tokens are padding.
        self.padded = bool(state.left_padding) and state.offset < max(state.left_padding)
        least = min(state.left_padding) if state.left_padding else 0
        if positions is not None:
            self.positions = positions
        elif self.padding is not None:
            self.positions = state.offset + state.shift - self.padding
        else:
            self.positions = state.offset + state.shift
        self.end = max(state.offset + length, state.expected) - least
        self.shared: dict[Any, Any] = dict(shared or {})
        self._masks: dict[Any, Any] = {}

    def mask(self, cache, array: bool = False):
        """The attention mask for a layer: None, "causal", or booleans (B or 1, 1, L, S); made once for each kind."""
        kept, first = cache.columns(self.length)
        key = (kept, first, cache.window, cache.keep, array)
        if key not in self._masks:
            self._masks[key] = self._make_mask(*key)
        return self._masks[key]

    def _make_mask(self, kept: int, first: int, window: int | None, keep: int, array: bool):
        end = self.start + self.length
        slides = window is not None and (kept > 0 or end - first > window - keep)
        if self.padding is None and self.length == 1:
            return None  # a cache gives one query just what it may see
        near = window is not None and "together_near" in self.shared
        if self.padding is None and not (slides or array or near or "together" in self.shared):
            return "causal"
        pad = 0 if self.padding is None else self.padding[:, None, None, None]
        keys, queries = mx.arange(first, end), mx.arange(self.start, end)[:, None]
        seen = (keys <= queries)[None, None]
        if near:
            seen = seen | self._together("together_near", self.start - first)
        if window is not None:
            seen = seen & ((keys > queries - (window - keep)) | (keys < keep + pad))
        if "together" in self.shared:
            seen = seen | self._together("together", self.start - first)
        if self.padding is not None:
            # A query that is padding itself sees padding: a row of nothing would be NaN, and NaN spreads.
            seen = seen & ((keys >= pad) | (queries < pad))
        if kept:  # each row's own first tokens, but those that are still among the others
            front = mx.broadcast_to(pad + mx.arange(kept) < first, (*seen.shape[:3], kept))
            seen = mx.concatenate([front, seen], axis=-1)
        return seen

    def _together(self, key: str, before: int) -> mx.array:
        """(B, 1, L, before + L) booleans: the tokens of this pass that see each other though neither is the earlier."""
        groups = self.shared[key][:, None]
        same = (groups[..., None] == groups[:, :, None]) & (groups[..., None] > 0)
        return mx.pad(same, [(0, 0), (0, 0), (0, 0), (before, 0)])

    def valid(self) -> mx.array | None:
        """(B, L) booleans, false at padding, for recurrent layers; None where there is none."""
        if self.padding is None:
            return None
        if "valid" not in self._masks:
            columns = mx.arange(self.start, self.start + self.length)
            self._masks["valid"] = columns >= self.padding[:, None]
        return self._masks["valid"]


class Backbone(nn.Module):
    """Embedding, blocks and final norm, under the names that the checkpoint gives them."""

    def __init__(
        self,
        vocab: int,
        dim: int,
        layers: Sequence[nn.Module],
        norm: nn.Module,
        *,
        embed_scale: float = 1.0,
        names: tuple[str, str] = ("embed_tokens", "norm"),
    ):
        super().__init__()
        self._names = names
        self[names[0]] = nn.Embedding(vocab, dim)
        self.layers = list(layers)
        self[names[1]] = norm
        self._embed_scale = embed_scale

    @property
    def embedding(self) -> nn.Embedding:
        return self[self._names[0]]

    def embed(self, tokens: mx.array, fill: Callable[[mx.array], mx.array] | None = None) -> mx.array:
        """(B, L) tokens to (B, L, dim); ``fill`` puts other rows in the places of some."""
        x = self.embedding(tokens)
        # The factor is rounded to the embedding's dtype first, as the models that have one were trained.
        x = x if self._embed_scale == 1.0 else x * mx.array(self._embed_scale, x.dtype)
        return x if fill is None else fill(x)

    def __call__(self, x: mx.array, state: State, positions=None, shared: dict[Any, Any] | None = None) -> mx.array:
        step = Step(x.shape[1], state, positions, shared)
        together, done = stacks(self, x, step), 0
        for i, (layer, cache) in enumerate(zip(self.layers, state, strict=True)):
            if i < done:
                continue
            stack = None if step.shared else together.get(i)
            made = None if stack is None else stack.run(x, state[i : i + len(stack)], step)
            if stack is not None and made is not None:
                x, done = made, i + len(stack)
                continue
            x = layer(x, cache, step)
            if (more := step.shared.get(("after", i))) is not None:
                x = x + more
        state.offset += step.length
        return self[self._names[1]](x)


class Decoder(nn.Module):
    """A causal language model: a backbone and a head, tied or its own.

    Called with tokens (B, L) and a cache it returns logits (B, L, vocab), and the cache advances.
    """

    config: Any = None
    model_type: str = ""

    def __init__(self, backbone: Backbone, *, tied: bool = False, finish: Callable | None = None, body: str = "model"):
        super().__init__()
        self._body = body
        self[body] = backbone
        if not tied:
            vocab, dim = backbone.embedding.weight.shape
            self.lm_head = nn.Linear(dim, vocab, bias=False)
        self._finish = finish  # a scale or softcap on the logits

    @property
    def backbone(self) -> Backbone:
        return self[self._body]

    @property
    def layers(self) -> list[Any]:
        return self.backbone.layers

    def make_cache(self, max_kv_size: int | None = None, left_padding: Sequence[int] | None = None) -> State:
        """A cache for a new conversation, or for one batch of them.

        ``max_kv_size`` bounds every layer that keeps tokens; where all would be kept the first 4 stay, as in mlx-lm.
        ``left_padding`` tells for each row how many of its first tokens are padding.
        """
        caches = [layer.make_cache() for layer in self.layers]
        if max_kv_size is not None:
            if max_kv_size < 8:
                raise GenerationError("max_kv_size is too small", found=max_kv_size, expected="at least 8")
            caches = [bounded(cache, max_kv_size) for cache in caches]
        return State(caches, left_padding)

    def __call__(self, tokens: mx.array, cache: State | Sequence | None = None) -> mx.array:
        state = self.make_cache() if cache is None else cache if isinstance(cache, State) else State(cache)
        return self.speak(self.backbone.embed(tokens), state)

    def speak(self, x: mx.array, state: State, positions=None, shared: dict[Any, Any] | None = None) -> mx.array:
        """Logits from embeddings (B, L, dim): where a vision-language model comes in. See `Step` for the rest."""
        return self.head(self.backbone(x, state, positions, shared))

    def head(self, h: mx.array) -> mx.array:
        """Logits from what the backbone gave (B, L, dim)."""
        logits = self.lm_head(h) if "lm_head" in self else self.backbone.embedding.as_linear(h)
        return logits if self._finish is None else self._finish(logits)
