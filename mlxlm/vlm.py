"""The skeleton that every vision-language model shares: a tower that sees, and the decoder of the text registry.

A prompt with media is merged once, for its whole length: the rows that the tower makes stand where the prompt keeps
places for them. What comes out (a `Prompt`) may then be spoken in chunks. A prompt without media goes to the decoder
as it is.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from threading import Lock
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from .cache import State
from .decoder import Decoder
from .errors import GenerationError

Item = dict[str, mx.array]
"""The arrays of one image or video, by Hugging Face's names."""


@dataclass(frozen=True)
class Rows:
    """What a tower makes of one image: ``first`` (n, dim) to embed, ``later`` to add to what layers 0, 1, … give."""

    first: mx.array
    later: tuple[mx.array, ...] = ()

    @property
    def nbytes(self) -> int:
        return self.first.nbytes + sum(x.nbytes for x in self.later)


def one_by_one(media: Mapping[str, mx.array]) -> list[Item]:
    """Media whose arrays have one entry for each image along the first axis."""
    count = next(iter(media.values())).shape[0]
    return [{name: x[i : i + 1] for name, x in media.items()} for i in range(count)]


@dataclass(frozen=True)
class Sight:
    """One kind of media: how it comes, where it goes, and what sees it.

    names: the arrays of this kind, that of the pixels first ("pixel_values").
    token: the id that keeps a place in the prompt for each row.
    look: one item to its rows: a `Rows`, or an array (n, dim) or (…, dim).
    split: all items' arrays, by name, to a list with each item's own.
    """

    names: tuple[str, ...]
    token: int
    look: Callable[[Item], Rows | mx.array]
    split: Callable[[Mapping[str, mx.array]], list[Item]] = one_by_one

    def items(self, media: Mapping[str, mx.array]) -> list[Item]:
        """Each item's arrays; nothing where the media have none of this kind."""
        own = {name: media[name] for name in self.names if media.get(name) is not None}
        if own and self.names[0] not in own:
            raise GenerationError(f"{self.names[0]} is missing", where="media", found=", ".join(own))
        return self.split(own) if own else []


@dataclass(frozen=True)
class Places:
    """Where the tokens of one row stand: ``positions`` (axes, L), and (index, shift) pairs: see `State.move`."""

    positions: np.ndarray
    shifts: tuple[tuple[int, int], ...]


Positions = Callable[[list[int], Mapping[str, mx.array], int], Places]
"""(tokens, media, the first position) to `Places`."""

SEEING = ("together", "together_near")  # what `Step` knows of tokens that see each other


@dataclass(frozen=True)
class Prompt:
    """A prompt ready to be spoken: embeddings with the media's rows in place, and what the layers need beside them.

    x: (B, L, dim), or a tuple of such arrays where the backbone takes more than one.
    positions: (axes, B, L), or None where tokens are counted.
    shifts: (index, shift) from where on positions are how far from the count of tokens.
    shared: for `Step.shared`: arrays (B, L, …).
    whole: (start, end) of stretches that one pass must take together.
    """

    x: Any
    positions: mx.array | None = None
    shifts: tuple[tuple[int, int | mx.array], ...] = ()
    shared: dict[Any, mx.array] = field(default_factory=dict)
    whole: tuple[tuple[int, int], ...] = ()

    def __len__(self) -> int:
        return (self.x[0] if isinstance(self.x, tuple) else self.x).shape[1]

    @property
    def tail(self) -> int:
        """Where the last pass begins: at the last token, or before it where that belongs to what is one."""
        last = len(self) - 1
        return next((low for low, high in self.whole if low < last < high), last)

    def part(self, start: int, end: int) -> "Prompt":
        """Tokens ``start`` to ``end`` of it. Where none of them see each other, nothing says so: text needs no mask."""
        seeing = any(low < end and start < high for low, high in self.whole)
        x = tuple(a[:, start:end] for a in self.x) if isinstance(self.x, tuple) else self.x[:, start:end]
        return Prompt(
            x,
            None if self.positions is None else self.positions[..., start:end],
            tuple((at - start, shift) for at, shift in self.shifts if start < at <= end),
            {key: value[:, start:end] for key, value in self.shared.items() if seeing or key not in SEEING},
        )

    def cuts(self, size: int, end: int) -> Iterator[tuple[int, int]]:
        """(start, end) of chunks of about ``size`` tokens, up to ``end``, that cut nothing that is one."""
        start = 0
        while start < end:
            stop = min(start + size, end)
            for low, high in self.whole:
                if low < stop < high:
                    stop = low if low > start else min(high, end)
            yield start, stop
            start = stop


class Features:
    """The rows of images seen lately, by the content of their arrays; the oldest go once they fill ``max_bytes``."""

    def __init__(self, max_bytes: int = 256 << 20):
        self.max_bytes, self.nbytes = max_bytes, 0
        self._rows: OrderedDict[bytes, Rows] = OrderedDict()
        self._lock = Lock()

    def get(self, item: Item, look: Callable[[Item], Rows | mx.array]) -> Rows:
        """The rows of an item, looked up or made."""
        key = content_key(item)
        with self._lock:
            if (known := self._rows.get(key)) is not None:
                self._rows.move_to_end(key)
                return known
        made = look(item)
        rows = made if isinstance(made, Rows) else Rows(made.reshape(-1, made.shape[-1]))
        mx.eval(rows.first, rows.later)  # another thread may be the next to use them
        self._keep(key, rows)
        return rows

    def _keep(self, key: bytes, rows: Rows) -> None:
        with self._lock:
            if rows.nbytes > self.max_bytes or key in self._rows:
                return
            self._rows[key] = rows
            self.nbytes += rows.nbytes
            while self.nbytes > self.max_bytes:
                self.nbytes -= self._rows.popitem(last=False)[1].nbytes

    def clear(self) -> None:
        with self._lock:
            self._rows.clear()
            self.nbytes = 0


def content_key(item: Mapping[str, Any]) -> bytes:
    """What tells arrays with another content apart."""
    digest = blake2b(digest_size=16)
    for name, value in sorted(item.items()):
        if isinstance(value, mx.array) and value.dtype == mx.bfloat16:
            value = value.view(mx.uint16)
        array = np.ascontiguousarray(value)
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.data)
    return digest.digest()


class VisionLanguage(nn.Module):
    """A tower and a decoder. ``parts`` are more modules beside them (a projector), by their names in checkpoints.

    Called with tokens (B, L), a cache and the media that the tokens keep places for, it gives logits (B, L, vocab).
    """

    config: Any = None
    model_type: str = ""

    def __init__(
        self,
        tower: nn.Module,
        decoder: Decoder,
        sights: Sequence[Sight],
        *,
        positions: Positions | None = None,
        beside: Sequence[str] = (),
        **parts: nn.Module,
    ):
        super().__init__()
        self.vision_tower, self.language_model = tower, decoder
        for name, part in parts.items():
            self[name] = part
        self._sights, self._positions = tuple(sights), positions
        self._known = {name for sight in sights for name in sight.names} | set(beside)
        self.features = Features()

    @property
    def layers(self) -> list[Any]:
        return self.language_model.layers

    @property
    def backbone(self):
        return self.language_model.backbone

    @property
    def media_tokens(self) -> frozenset[int]:
        """The ids that keep places for media."""
        return frozenset(sight.token for sight in self._sights)

    def make_cache(self, *args, **kwargs) -> State:
        """As the decoder's."""
        return self.language_model.make_cache(*args, **kwargs)

    def update(self, *args, **kwargs):
        """As any module's; what was seen with other weights is forgotten."""
        self.features.clear()
        return super().update(*args, **kwargs)

    def __call__(self, tokens: mx.array, cache: State | Sequence | None = None, **media: mx.array | None) -> mx.array:
        given = {name: x for name, x in media.items() if x is not None}
        if not given:
            return self.language_model(tokens, cache=cache)
        state = self.make_cache() if cache is None else cache if isinstance(cache, State) else State(cache)
        return self.speak(self.merge(tokens, state, given), state)

    def speak(self, prompt: Prompt, state: State) -> mx.array:
        """Logits of a prompt or of a part of one; the state advances, and knows from then on where text goes on."""
        start = state.offset
        logits = self.language_model.speak(prompt.x, state, prompt.positions, prompt.shared)
        for at, shift in prompt.shifts:
            state.move(shift, start + at)
        return logits

    def merge(self, tokens: mx.array, state: State, media: Mapping[str, mx.array]) -> Prompt:
        """The whole prompt with everything seen, ready for `speak`.

        Raises GenerationError if the prompt doesn't keep as many places as there are rows.
        """
        if strange := sorted(media.keys() - self._known):
            raise GenerationError("media of a kind that the model doesn't take", where="media",
                                  found=", ".join(strange), expected=", ".join(sorted(self._known)))
        seen = {sight.token: self._seen(sight, tokens, media) for sight in self._sights}
        seen = {token: rows for token, rows in seen.items() if rows}
        positions, shifts = self._placed(tokens, state, media)
        shared = self.shared(tokens, seen)
        return Prompt(self.embedded(tokens, seen), positions, shifts, shared, self.whole(tokens, shared))

    def embedded(self, tokens: mx.array, seen: dict[int, list[Rows]]) -> Any:
        """Embeddings with the rows in place; ``seen`` is what was seen, by the token that keeps its places."""

        plain = tokens
        for token in seen:  # some vocabularies have no row for it
            plain = mx.where(plain == token, 0, plain)
        return self.backbone.embed(plain, lambda x: self.filled(x, tokens, seen))

    def filled(self, x: mx.array, tokens: mx.array, seen: dict[int, list[Rows]]) -> mx.array:
        """``x`` with the rows of what was seen in their places."""
        for token, rows in seen.items():
            x = place(mx.concatenate([r.first for r in rows]), x, tokens == token)
        return x

    def shared(self, tokens: mx.array, seen: dict[int, list[Rows]]) -> dict[Any, mx.array]:
        """What the layers need beside the embeddings: what they add to their outputs, if the tower made it."""
        deep: dict[Any, mx.array] = {}
        for token, rows in seen.items():
            for i in range(len(rows[0].later)):
                new = mx.concatenate([r.later[i] for r in rows])
                x = deep.get(("after", i), mx.zeros((*tokens.shape, new.shape[-1]), new.dtype))
                deep["after", i] = place(new, x, tokens == token)
        return deep

    def whole(self, tokens: mx.array, shared: dict[Any, mx.array]) -> tuple[tuple[int, int], ...]:
        """Stretches that one pass must take together: those whose tokens see each other."""
        if "together" not in shared:
            return ()
        groups = np.array(shared["together"])
        inside = ((groups[:, 1:] == groups[:, :-1]) & (groups[:, 1:] > 0)).any(0)
        edges = np.flatnonzero(np.diff(np.concatenate([[0], inside.astype(np.int8), [0]])))
        return tuple((int(a), int(b) + 1) for a, b in edges.reshape(-1, 2))

    def _seen(self, sight: Sight, tokens: mx.array, media: Mapping[str, mx.array]) -> list[Rows]:
        rows = [self.features.get(item, sight.look) for item in sight.items(media)]
        room, made = int(np.array(tokens == sight.token).sum()), sum(r.first.shape[0] for r in rows)
        if room != made:
            raise GenerationError(
                "the prompt doesn't keep as many places for media as the media need", where=sight.names[0],
                found=f"{room} tokens of id {sight.token}", expected=f"{made}, for {len(rows)} images or videos")
        return rows

    def _placed(self, tokens: mx.array, state: State, media: Mapping[str, mx.array]):
        """(positions (axes, B, L), shifts) by the model's own rule; (None, ()) where it counts tokens."""
        if self._positions is None:
            return None, ()
        if tokens.shape[0] == 1 and not state.left_padding:
            first = state.offset + state.shift
            placed = self._positions(tokens[0].tolist(), media, int(first))  # type: ignore[arg-type]
            now = int(state.shift)  # type: ignore[arg-type]
            return mx.array(placed.positions)[:, None], tuple((at, shift + now) for at, shift in placed.shifts)
        return self._placed_batch(tokens, state, media)

    def _placed_batch(self, tokens: mx.array, state: State, media: Mapping[str, mx.array]):
        """As `_placed` for a batch whose rows begin here; each takes its own of the media, in order."""
        rows, shifts, taken = [], [], {sight.names[0]: 0 for sight in self._sights}
        pads = state.left_padding or [0] * tokens.shape[0]
        items = {sight.names[0]: sight.items(media) for sight in self._sights}
        for row, pad in zip(tokens.tolist(), pads, strict=True):  # type: ignore[arg-type]
            own: dict[str, mx.array] = {}
            for sight in self._sights:
                own |= joined(self._row_items(sight, items[sight.names[0]], row, taken))
            placed = self._positions(row[pad:], own, 0)  # type: ignore[misc]
            rows.append(np.pad(placed.positions, ((0, 0), (pad, 0))))
            shifts.append(placed.shifts[-1][1] if placed.shifts else 0)
        return mx.array(np.stack(rows, axis=1)), ((tokens.shape[1], mx.array(shifts)),)

    def _row_items(self, sight: Sight, items: list[Item], row: list[int], taken: dict[str, int]) -> list[Item]:
        room, own = row.count(sight.token), []
        while room > 0:
            item = items[taken[sight.names[0]]]
            taken[sight.names[0]] += 1
            room -= self.features.get(item, sight.look).first.shape[0]
            own.append(item)
        return own


def joined(items: Sequence[Item]) -> Item:
    """Items' arrays one after the other along the first axis."""
    return {name: mx.concatenate([item[name] for item in items]) for name in items[0]} if items else {}


def runs(tokens: mx.array, media: Iterable[int]) -> mx.array:
    """(B, L): the runs of the ``media`` tokens, numbered from 1; 0 where there is text."""
    inside = mx.zeros(tokens.shape, mx.bool_)
    for token in media:
        inside = inside | (tokens == token)
    first = inside & ~mx.pad(inside, [(0, 0), (1, 0)])[:, :-1]
    return mx.where(inside, mx.cumsum(first.astype(mx.int32), axis=1), 0)


def place(rows: mx.array, x: mx.array, where: mx.array) -> mx.array:
    """``x`` (B, L, dim) with ``rows`` (n, dim) where ``where`` (B, L) is true, in order."""
    index = mx.maximum(where.flatten().astype(mx.int32).cumsum() - 1, 0).reshape(where.shape)
    return mx.where(where[..., None], rows[index].astype(x.dtype), x)
