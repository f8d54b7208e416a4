"""How a prompt is read: stretch by stretch, its media merged once for the whole of it."""
from collections.abc import Iterable
from typing import Any

import mlx.core as mx
import numpy as np

from ..errors import GenerationError


class Passes:
    """The passes over a prompt's ids (length,); ``media`` is the `Inputs` that they are a part of, or None.

    ``last`` is where the pass begins that ends with the last token.
    """

    def __init__(self, model: Any, ids: np.ndarray, cache: Any, media: Any = None):
        self._model, self._ids, self._cache, self._merged = model, ids, cache, None
        self.last = len(ids) - 1
        if media is not None:
            if not hasattr(model, "merge"):
                raise GenerationError("the model takes no images or videos", where="prompt")
            self._merged = model.merge(mx.array(ids)[None], cache, media.media)
            self.last = self._merged.tail

    def chunks(self, size: int) -> Iterable[tuple[int, int]]:
        """(start, end) of each stretch before the last pass, of about ``size`` tokens."""
        if self._merged is not None:
            return self._merged.cuts(size, self.last)
        return ((start, min(start + size, self.last)) for start in range(0, self.last, size))

    def divides(self, at: int) -> bool:
        """Whether one stretch may end before token ``at``, and the next begin there."""
        return self._merged is None or not any(low < at < high for low, high in self._merged.whole)

    def read(self, start: int, end: int) -> mx.array:
        """Logits (1, end - start, vocab); the cache advances."""
        if self._merged is not None:
            return self._model.speak(self._merged.part(start, end), self._cache)
        return self._model(mx.array(self._ids[None, start:end]), cache=self._cache)
