"""What a conversion costs, in numbers: perplexity on a text, and the divergence from the source, token by token."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from ..data import data_file
from ..errors import UsageError

WINDOW = 256
"""Tokens that are predicted from one start; every window starts anew, so that two models see the same contexts."""


@dataclass(frozen=True)
class Quality:
    """``perplexity`` is e to the mean loss of a token; ``divergence`` the mean Kullback-Leibler divergence, in nats,
    of the model's distribution from the source's, and ``agreement`` how often both hold the same token likeliest."""

    perplexity: float
    tokens: int
    source_perplexity: float | None = None
    divergence: float | None = None
    agreement: float | None = None


@dataclass(frozen=True)
class Tokens:
    """The loss of each token in nats, and beside a source its loss, the divergence, and 1.0 where both agree."""

    losses: np.ndarray
    source_losses: np.ndarray | None = None
    divergences: np.ndarray | None = None
    agreed: np.ndarray | None = None


def sample_text(name: str = "measure") -> str:
    """The text that quality is measured on, or ``calibrate``: the one that quantization may learn from."""
    return data_file(f"{name}.txt").read_text(encoding="utf-8")


def quality(model: Any, tokenizer: Any, source: Any = None, text: str | None = None,
            most_tokens: int | None = None) -> Quality:
    """How well ``model`` predicts a text, and how far it is from ``source``, a model of the same vocabulary.

    ``text`` is the project's own by default; ``most_tokens`` takes its beginning only.
    """
    found = by_token(model, tokenizer, source, text, most_tokens)
    perplexity, count = math.exp(found.losses.mean()), len(found.losses)
    if found.source_losses is None or found.divergences is None or found.agreed is None:
        return Quality(perplexity, count)
    return Quality(perplexity, count, math.exp(found.source_losses.mean()), float(found.divergences.mean()),
                   float(found.agreed.mean()))


def by_token(model: Any, tokenizer: Any, source: Any = None, text: str | None = None,
             most_tokens: int | None = None) -> Tokens:
    """What `quality` is the mean of."""
    rows: list[tuple[np.ndarray, ...]] = []
    for fed, told in windows(tokenizer, sample_text() if text is None else text, most_tokens):
        logprobs = _logprobs(model, fed)
        row = (_losses(logprobs, told),)
        if source is not None:
            known = _logprobs(source, fed)
            row += (_losses(known, told), np.array((mx.exp(known) * (known - logprobs)).sum(-1)).ravel(),
                    np.array(known.argmax(-1) == logprobs.argmax(-1)).ravel())
        rows.append(row)
    return Tokens(*(np.concatenate(column).astype(np.float64) for column in zip(*rows, strict=True)))


def windows(tokenizer: Any, text: str, most_tokens: int | None = None) -> Iterator[tuple[mx.array, mx.array]]:
    """(tokens to feed, tokens to predict), each (1, n). Raises UsageError for a text of fewer than two tokens."""
    ids = list(tokenizer.encode(text, add_special_tokens=False))
    ids = ids[:most_tokens] if most_tokens else ids
    first = [tokenizer.bos_token_id] if getattr(tokenizer, "bos_token_id", None) is not None else ids[:1]
    if len(ids) < 2:
        raise UsageError("the text is too short to measure with", where="text", found=f"{len(ids)} tokens")
    for start in range(0, len(ids), WINDOW):
        told = ids[start:start + WINDOW]
        yield mx.array([[*first, *told[:-1]]]), mx.array([told])


def _logprobs(model: Any, fed: mx.array) -> mx.array:
    logits = model(fed).astype(mx.float32)
    logprobs = logits - mx.logsumexp(logits, -1, keepdims=True)
    mx.eval(logprobs)
    return logprobs


def _losses(logprobs: mx.array, told: mx.array) -> np.ndarray:
    return -np.array(mx.take_along_axis(logprobs, told[..., None], -1)).ravel()
