"""Samplers: callables from log-probabilities (B, vocab) to token ids (B,), each with its own random state.

The filters are functions on log-probabilities too; what they drop becomes -inf. They apply at temperature 1
and in mlx-lm's order: top-p, min-p, XTC, top-k, and the temperature last.
"""
import math
import random
from collections.abc import Callable, Sequence

import mlx.core as mx

from ..errors import GenerationError
from ..kernels import ops
from .checks import integer, number, several, shown

Sampler = Callable[[mx.array], mx.array]


def make_sampler(temp: float = 0.0, top_p: float = 0.0, min_p: float = 0.0, min_tokens_to_keep: int = 1,
                 top_k: int = 0, xtc_probability: float = 0.0, xtc_threshold: float = 0.1,
                 xtc_special_tokens: Sequence[int] | None = None, seed: int | None = None) -> Sampler:
    """A sampler for `generate_step`: log-probabilities (B, vocab) -> token ids (B,).

    temp: 0 takes the most likely token, whatever the rest says.
    top_p: keep the most likely tokens that make up this probability together; 0 and 1 keep all.
    min_p: keep tokens at least this many times as likely as the likeliest one, and ``min_tokens_to_keep``
        anyway.
    top_k: keep this many of the most likely tokens; 0 (or -1) keeps all.
    xtc_probability: how often to drop all tokens above ``xtc_threshold`` but the least likely of them;
        ``xtc_special_tokens`` are never dropped.
    seed: makes the choices repeatable; without one they differ each time. MLX's global random state plays no
        part. Raises GenerationError for values out of range.
    """
    temp = number("temp", temp, 0)
    top_p, min_p = number("top_p", top_p, 0, 1), number("min_p", min_p, 0, 1)
    keep, top_k = integer("min_tokens_to_keep", min_tokens_to_keep, 1), integer("top_k", top_k, -1)
    often = number("xtc_probability", xtc_probability, 0, 1)
    above = number("xtc_threshold", xtc_threshold, 0, 0.5)
    special = several("xtc_special_tokens", xtc_special_tokens, "token ids")
    special = [integer("xtc_special_tokens", token, 0) for token in special]
    keys = RandomKeys(seed)
    if temp == 0:
        return greedy
    shortlist = top_k if often == 0 else 0
    filters: list[Callable[[mx.array, RandomKeys], mx.array]] = []
    if 0 < top_p < 1:
        filters.append(lambda logprobs, _: apply_top_p(logprobs, top_p, mass=1.0 if shortlist > 0 else None))
    if min_p > 0:
        filters.append(lambda logprobs, _: apply_min_p(logprobs, min_p, keep))
    if often > 0:
        filters.append(lambda logprobs, keys: apply_xtc(logprobs, often, above, special, keys()))
    if top_k > 0 and not shortlist > 0:
        filters.append(lambda logprobs, _: apply_top_k(logprobs, top_k))
    return _drawing(keys, filters, temp, shortlist)


def _drawing(keys: "RandomKeys", filters: list, temp: float, shortlist: int) -> Sampler:
    """A sampler with an attribute ``fork``: a function that makes one which will draw with the same random numbers."""

    def sample(logprobs: mx.array) -> mx.array:
        for keep_likely in filters:
            logprobs = keep_likely(logprobs, keys)
        return mx.random.categorical(logprobs * (1 / temp), key=keys())

    sampler = _among_likeliest(shortlist, sample) if shortlist > 0 else sample
    sampler.fork = lambda: _drawing(keys.fork(), filters, temp, shortlist)  # type: ignore[attr-defined]
    return sampler


def _among_likeliest(count: int, sample: Sampler) -> Sampler:
    """``sample``, shown the likeliest tokens alone.

    Top-p and min-p keep the front of the ranking, as top-k does, so it may go first: the same tokens are left, and
    sorting and drawing no longer take the whole vocabulary.
    """
    def sample_likeliest(logprobs: mx.array) -> mx.array:
        if count >= logprobs.shape[-1]:
            return sample(logprobs)
        likeliest = mx.argpartition(-logprobs, kth=count - 1, axis=-1)[..., :count]
        chosen = sample(mx.take_along_axis(logprobs, likeliest, axis=-1))
        return mx.take_along_axis(likeliest, chosen[..., None], axis=-1).squeeze(-1)

    return sample_likeliest


class RandomKeys:
    """A source of keys for ``mx.random``: each call gives a new one, the same ones for the same seed.

    The keys come from Python's generator, so a sampler has no unevaluated array and may move between threads.
    """

    def __init__(self, seed: int | None = None):
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
            raise GenerationError("not a whole number", where="seed", found=shown(seed),
                                  expected="an integer or None")
        self._random = random.Random(seed)

    def fork(self) -> "RandomKeys":
        """A source that will give the same keys as this one."""
        new = RandomKeys()
        new._random.setstate(self._random.getstate())
        return new

    def __call__(self) -> mx.array:
        return mx.random.key(self._random.getrandbits(64))


def greedy(logprobs: mx.array) -> mx.array:
    """The most likely token of each row; the lowest id among equals."""
    return ops.argmax(logprobs)


def log_softmax(logits: mx.array) -> mx.array:
    """Logits of any float type to float32 log-probabilities, over the last axis."""
    logits = logits.astype(mx.float32)
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)


def apply_top_p(logprobs: mx.array, top_p: float, mass: float | None = None) -> mx.array:
    """Keeps the fewest likeliest tokens whose probabilities add up to ``top_p``, and ties of the last.

    ``mass`` is that of the whole distribution where ``logprobs`` are only the likeliest part of it.
    """
    descending = -mx.sort(-logprobs, axis=-1)
    probs = mx.exp(descending)
    before = mx.cumsum(probs, axis=-1, inclusive=False)
    kept = before < top_p * (probs.sum(axis=-1, keepdims=True) if mass is None else mass)
    return _at_least(logprobs, mx.where(kept, descending, math.inf).min(axis=-1, keepdims=True))


def apply_min_p(logprobs: mx.array, min_p: float, min_tokens_to_keep: int = 1) -> mx.array:
    """Keeps tokens of at least ``min_p`` times the largest probability, and never fewer than so many."""
    least = logprobs.max(axis=-1, keepdims=True) + math.log(min_p)
    if min_tokens_to_keep > 1:
        least = mx.minimum(least, _kth_largest(logprobs, min(min_tokens_to_keep, logprobs.shape[-1])))
    return _at_least(logprobs, least)


def apply_top_k(logprobs: mx.array, top_k: int) -> mx.array:
    """Keeps the ``top_k`` likeliest tokens, exactly so many; any of those that tie for the last place."""
    if top_k >= logprobs.shape[-1]:
        return logprobs
    dropped = mx.argpartition(-logprobs, kth=top_k - 1, axis=-1)[..., top_k:]
    return mx.put_along_axis(logprobs, dropped, mx.array(-math.inf, logprobs.dtype), axis=-1)


def apply_xtc(logprobs: mx.array, probability: float, threshold: float, special_tokens: Sequence[int],
              key: mx.array) -> mx.array:
    """Excludes top choices: of the tokens above the threshold only the least likely stays.

    That happens with the given probability, drawn for each row.
    """
    probs = mx.softmax(logprobs, axis=-1)
    least = mx.where(probs > threshold, probs, math.inf).min(axis=-1, keepdims=True)
    dropped = probs > least
    if special_tokens:
        dropped[..., mx.array(list(special_tokens))] = False
    happens = mx.random.uniform(shape=(*logprobs.shape[:-1], 1), key=key) < probability
    return mx.where(dropped & happens, -math.inf, logprobs)


def _at_least(logprobs: mx.array, least: mx.array) -> mx.array:
    return mx.where(logprobs >= least, logprobs, -math.inf)


def _kth_largest(values: mx.array, k: int) -> mx.array:
    return mx.partition(values, kth=-k, axis=-1)[..., -k:-k + 1 or None]
