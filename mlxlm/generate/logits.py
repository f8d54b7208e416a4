"""Logits processors: callables from (tokens so far, logits (B, vocab)) to new logits, run before sampling.

Tokens have shape (n,) for one sequence or (B, n), the prompt included. Meanings and names are mlx-lm's.
"""
from collections.abc import Callable, Mapping

import mlx.core as mx

from ..errors import GenerationError
from .checks import integer, number, shown

LogitsProcessor = Callable[[mx.array, mx.array], mx.array]


def make_logits_processors(
        logit_bias: Mapping[int, float] | None = None,
        repetition_penalty: float | None = None, repetition_context_size: int | None = 20,
        presence_penalty: float | None = None, presence_context_size: int | None = 20,
        frequency_penalty: float | None = None, frequency_context_size: int | None = 20,
) -> list[LogitsProcessor]:
    """The processors that the arguments ask for: bias, repetition, presence, frequency, in that order.

    Each context size is how many of the last tokens a penalty looks at; None means all. None and 0 turn a
    penalty off. Raises GenerationError for values out of range.
    """
    processors = [logit_biases(logit_bias)] if logit_bias else []
    if repetition_penalty:
        processors.append(repetition(repetition_penalty, repetition_context_size))
    if presence_penalty:
        processors.append(presence(presence_penalty, presence_context_size))
    if frequency_penalty:
        processors.append(frequency(frequency_penalty, frequency_context_size))
    return processors


def logit_biases(biases: Mapping[int, float]) -> LogitsProcessor:
    """Adds a number to the logits of the given token ids; -inf forbids a token."""
    if not isinstance(biases, Mapping):
        raise GenerationError("not a mapping", where="logit_bias", found=shown(biases),
                              expected="token ids to numbers, such as {50256: -100}")
    ids = [integer("logit_bias", token, 0) for token in biases]
    values = [value if value == float("-inf") else number(f"logit_bias[{token}]", value)
              for token, value in biases.items()]

    def add(_tokens: mx.array, logits: mx.array) -> mx.array:
        if max(ids) >= logits.shape[-1]:
            raise GenerationError("not in the vocabulary", where="logit_bias", found=f"token id {max(ids)}",
                                  expected=f"ids below {logits.shape[-1]}")
        return logits.at[:, mx.array(ids)].add(mx.array(values, logits.dtype))

    return add


def repetition(penalty: float, context_size: int | None = 20) -> LogitsProcessor:
    """Makes tokens of the context less likely: divides positive logits, multiplies negative ones.

    As in CTRL (arXiv 1909.05858); once for each token, however often it occurs.
    """
    penalty = number("repetition_penalty", penalty, 1e-6)
    window = _window("repetition_context_size", context_size)

    def penalize(tokens: mx.array, logits: mx.array) -> mx.array:
        less = mx.where(logits < 0, logits * penalty, logits / penalty)
        return mx.where(_counts(window(tokens), logits) > 0, less, logits)

    return penalize


def presence(penalty: float, context_size: int | None = 20) -> LogitsProcessor:
    """Subtracts the penalty once from the logit of each token that the context holds."""
    penalty, window = number("presence_penalty", penalty), _window("presence_context_size", context_size)

    def penalize(tokens: mx.array, logits: mx.array) -> mx.array:
        return logits - penalty * (_counts(window(tokens), logits) > 0)

    return penalize


def frequency(penalty: float, context_size: int | None = 20) -> LogitsProcessor:
    """Subtracts the penalty from a token's logit as often as the context holds the token."""
    penalty, window = number("frequency_penalty", penalty), _window("frequency_context_size", context_size)

    def penalize(tokens: mx.array, logits: mx.array) -> mx.array:
        return logits - penalty * _counts(window(tokens), logits)

    return penalize


def _window(name: str, size: int | None) -> Callable[[mx.array], mx.array]:
    if size is None:
        return lambda tokens: tokens
    length = integer(name, size, 1)
    return lambda tokens: tokens[..., -length:]


def _counts(tokens: mx.array, logits: mx.array) -> mx.array:
    """How often each token of the vocabulary occurs in its row of ``tokens``; shaped and typed as logits.

    Ids that keep places for media may lie outside of the vocabulary.
    """
    tokens = mx.broadcast_to(tokens, (logits.shape[0], tokens.shape[-1]))
    rows = mx.arange(logits.shape[0])[:, None]
    inside = (tokens >= 0) & (tokens < logits.shape[-1])
    return mx.zeros_like(logits).at[rows, mx.where(inside, tokens, 0)].add(inside.astype(logits.dtype))
