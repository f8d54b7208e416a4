"""M-RoPE's positions: text counts on along all three axes, an image spans its grid, and the count goes on past it."""

from collections.abc import Callable, Mapping

import mlx.core as mx
import numpy as np

from ..errors import GenerationError
from ..vlm import Places


class GridPositions:
    """Positions (3, L) for prompts whose media are grids of merged patches.

    ``images`` and ``videos`` are (token, name of the grids' array); ``seconds(media, i)`` is how far apart two frames
    of video i stand; ``framewise`` is for videos whose frames lie apart in the prompt, one place for each of them.
    """

    def __init__(
        self,
        merge: int,
        *kinds: tuple[int, str],
        interval: Callable[[Mapping[str, mx.array], str, int], float] = lambda media, name, i: 1.0,
        framewise: tuple[str, ...] = (),
    ):
        self._merge, self._kinds, self._interval, self._framewise = merge, kinds, interval, framewise

    def __call__(self, tokens: list[int], media: Mapping[str, mx.array], first: int) -> Places:
        grids = {token: iter(self._grids(name, media)) for token, name in self._kinds}
        spans, shifts, now, i = [], [], first, 0
        while i < len(tokens):
            if tokens[i] in grids:
                span, i = self._span(grids[tokens[i]], tokens, i)
                spans.append(span + now)
                now = int(spans[-1].max()) + 1
                shifts.append((i, now - first - i))
            else:
                end = next((j for j in range(i, len(tokens)) if tokens[j] in grids), len(tokens))
                spans.append(np.tile(np.arange(now, now + end - i), (3, 1)))
                now, i = now + end - i, end
        return Places(np.concatenate(spans, axis=1).astype(np.int32), tuple(shifts))

    def _grids(self, name: str, media: Mapping[str, mx.array]):
        """(t, h, w, interval) of each stretch of the prompt that one item fills."""
        grids: list[list[int]] = np.array(media[name]).reshape(-1, 3).tolist() if name in media else []
        for i, (t, h, w) in enumerate(grids):
            if name in self._framewise:
                yield from [(1, h, w, 1.0)] * t
            else:
                yield t, h, w, self._interval(media, name, i)

    def _span(self, grids, tokens: list[int], start: int) -> tuple[np.ndarray, int]:
        t, h, w, interval = next(grids, (0, 0, 0, 0.0))
        shape = (t, h // self._merge, w // self._merge)
        end = start + t * shape[1] * shape[2]
        if not t or tokens[start:end] != [tokens[start]] * (end - start):
            raise GenerationError("the prompt doesn't keep as many places in a row as an image or video needs",
                                  where="prompt", found=f"token {tokens[start]} at {start}",
                                  expected=f"{end - start} of them" if t else "no more of them")
        at = np.indices(shape).reshape(3, -1)
        at[0] = (at[0].astype(np.float32) * np.float32(interval)).astype(np.int64)
        return at, end
