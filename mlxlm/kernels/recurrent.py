"""The recurrences of Mamba and the gated delta rule: position by position in our kernels, in chunks in plain ``mx``.

All read and keep their states in float32. The forms in chunks are those of Dao and Gu (2024), section 6, and of Yang,
Kautz and Hatamizadeh (2024); the native kernels follow the definitions, and take the plain forms' gradients.
"""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx

from mlxlm.kernels.choice import CHOICE

CHUNK = 64  # tokens whose pairwise decays are worked out at once
DOUBLED = 32  # tokens whose states Mamba 1's plain form holds at once: channels * state numbers each


def plain_selective_scan(x, dt, a, b, c, state):
    x, dt, b, c = (t.astype(mx.float32) for t in (x, dt, b, c))
    if state is None:
        state = mx.zeros((x.shape[0], *a.shape), mx.float32)
    outs = []
    for start in range(0, x.shape[1], DOUBLED):
        xs, dts, bs, cs = (t[:, start : start + DOUBLED] for t in (x, dt, b, c))
        decay = mx.exp(dts[..., None] * a)  # (B, l, channels, n)
        states = (dts * xs)[..., None] * bs[:, :, None]
        decay, states = _doubled(decay, states)
        states = states + decay * state[:, None]
        state = states[:, -1]
        outs.append((states @ cs[..., None]).squeeze(-1))
    return (outs[0] if len(outs) == 1 else mx.concatenate(outs, axis=1)), state


def _doubled(decay: mx.array, states: mx.array) -> tuple[mx.array, mx.array]:
    """Each token's decay and state since the start of the chunk: spans of 1, 2, 4 … tokens joined to those before."""
    span = 1
    while span < decay.shape[1]:
        joined = states[:, span:] + decay[:, span:] * states[:, :-span]
        states = mx.concatenate([states[:, :span], joined], axis=1)
        decay = mx.concatenate([decay[:, :span], decay[:, span:] * decay[:, :-span]], axis=1)
        span *= 2
    return decay, states


def plain_ssm_scan(x, dt, a, b, c, state):
    batch, length, heads, dim = x.shape
    groups, n = b.shape[2:]
    if state is None:
        state = mx.zeros((batch, heads, dim, n), mx.float32)
    x, b, c, dt = (t.astype(mx.float32) for t in (x, b, c, dt))
    repeat = heads // groups
    outs = []
    for start in range(0, length, CHUNK):
        piece = slice(start, min(start + CHUNK, length))
        bh, ch = (mx.repeat(t[:, piece], repeat, axis=2).swapaxes(1, 2) for t in (b, c))  # (B, heads, l, n)
        y, state = _ssm_chunk(x[:, piece].swapaxes(1, 2), dt[:, piece].swapaxes(1, 2), a, bh, ch, state)
        outs.append(y.swapaxes(1, 2))
    return (outs[0] if len(outs) == 1 else mx.concatenate(outs, axis=1)), state


def _ssm_chunk(x, dt, a, b, c, state):
    """One chunk with heads in front: x (B, heads, l, dim), dt (B, heads, l), b and c (B, heads, l, n)."""
    length = x.shape[2]
    total = mx.cumsum(dt * a[:, None], axis=-1)  # log of the decay from the chunk's start to after each token
    dtx = dt[..., None] * x
    y = mx.exp(total)[..., None] * (c @ state.swapaxes(-1, -2))
    if length == 1:
        new = mx.exp(total)[..., None] * state + dtx.swapaxes(-1, -2) @ b
        return y + (c * b).sum(-1, keepdims=True) * dtx, new
    between = total[..., :, None] - total[..., None, :]  # never above 0 where it counts: no overflow
    earlier = mx.arange(length)[:, None] >= mx.arange(length)
    decay = mx.exp(mx.where(earlier, between, -mx.inf))
    y = y + ((c @ b.swapaxes(-1, -2)) * decay) @ dtx
    left = mx.exp(total[..., -1:] - total)[..., None]
    new = mx.exp(total[..., -1])[..., None, None] * state + (dtx * left).swapaxes(-1, -2) @ b
    return y, new


def plain_delta_scan(q, k, v, g, beta, state):
    q, k, v, g, beta = (t.astype(mx.float32).swapaxes(1, 2) for t in (q, k, v, g, beta))  # heads in front
    if state is None:
        state = mx.zeros((*k.shape[:2], k.shape[-1], v.shape[-1]), mx.float32)
    outs = []
    for start in range(0, q.shape[2], CHUNK):
        qs, ks, vs, gs, bs = (t[:, :, start : start + CHUNK] for t in (q, k, v, g, beta))
        y, state = _delta_chunk(qs, ks, vs, gs, bs, state)
        outs.append(y)
    return (outs[0] if len(outs) == 1 else mx.concatenate(outs, axis=2)).swapaxes(1, 2), state


def _delta_chunk(q, k, v, g, beta, state):
    """One chunk with heads in front: what each token writes depends on those before it, so a system is solved first."""
    length = q.shape[2]
    total = mx.cumsum(g, axis=-1)  # log of the decay from the chunk's start to after each token
    earlier = mx.arange(length)[:, None] >= mx.arange(length)
    decay = mx.exp(mx.where(earlier, total[..., :, None] - total[..., None, :], -mx.inf))
    fade = mx.exp(total)[..., None]
    written = beta[..., None] * (v - (k * fade) @ state)
    if length > 1:
        written = _unit_lower_inverse(mx.tril(beta[..., None] * (k @ k.swapaxes(-1, -2)) * decay, -1)) @ written
    y = (q * fade) @ state + ((q @ k.swapaxes(-1, -2)) * decay) @ written
    left = mx.exp(total[..., -1:] - total)[..., None]
    return y, fade[..., -1:, :] * state + (k * left).swapaxes(-1, -2) @ written


def _unit_lower_inverse(lower: mx.array) -> mx.array:
    """(I + lower)⁻¹ for strictly lower triangular matrices (..., n, n).

    Blocks are joined two by two, each pair's inverse from those of its halves, so nothing is subtracted that
    forward substitution would not subtract.
    """
    n = lower.shape[-1]
    inverse = mx.eye(n)
    row, column = mx.arange(n)[:, None], mx.arange(n)
    size = 1
    while size < n:
        joins = (row // (2 * size) == column // (2 * size)) & (row // size != column // size)
        inverse = inverse - inverse @ mx.where(joins, lower, 0.0) @ inverse
        size *= 2
    return inverse


def _differentiable(native, plain) -> Callable[..., tuple[mx.array, mx.array]]:
    f = mx.custom_function(native)

    @f.vjp
    def _(primals, cotangents, _outputs):
        return tuple(mx.vjp(plain, list(primals), list(cotangents))[1])

    return f  # pyright: ignore[reportReturnType]


if CHOICE.module is not None:
    _native_selective = _differentiable(CHOICE.module.selective_scan, plain_selective_scan)
    _native_ssm = _differentiable(CHOICE.module.ssm_scan, plain_ssm_scan)
    _native_delta = _differentiable(CHOICE.module.delta_scan, plain_delta_scan)


def selective_scan(x, dt, a, b, c, state) -> tuple[mx.array, mx.array]:
    """Mamba 1's recurrence h = exp(dt·a)·h + dt·x·b, y = h·c for every channel, in float32.

    x and dt (B, L, channels), a (channels, n), b and c (B, L, n), state (B, channels, n) or None. Returns y like x, and
    the last state.
    """
    if CHOICE.module is None or mx.default_device() != mx.Device(mx.cpu, 0):
        return plain_selective_scan(x, dt, a, b, c, state)
    if state is None:
        state = mx.zeros((x.shape[0], *a.shape), mx.float32)
    return _native_selective(x, dt, a, b, c, state)


def ssm_scan(x, dt, a, b, c, state) -> tuple[mx.array, mx.array]:
    """The state space recurrence h = exp(dt·a)·h + dt·x⊗b, y = h·c, in float32.

    x (B, L, heads, dim), dt (B, L, heads), a (heads,), b and c (B, L, groups, n), state (B, heads, dim, n) or None.
    Returns y like x, and the last state.
    """
    if CHOICE.module is None or mx.default_device() != mx.Device(mx.cpu, 0):
        return plain_ssm_scan(x, dt, a, b, c, state)
    if state is None:
        state = mx.zeros((x.shape[0], *x.shape[2:], b.shape[-1]), mx.float32)
    return _native_ssm(x, dt, a, b, c, state)


def delta_scan(q, k, v, g, beta, state) -> tuple[mx.array, mx.array]:
    """The gated delta rule S = exp(g)·S, S += k ⊗ beta·(v - S·k), y = S·q, in float32.

    q and k (B, L, heads, k_dim), v (B, L, heads, v_dim), g and beta (B, L, heads), state (B, heads, k_dim, v_dim) or
    None. Returns y like v, and the last state.
    """
    if CHOICE.module is None or mx.default_device() != mx.Device(mx.cpu, 0):
        return plain_delta_scan(q, k, v, g, beta, state)
    if state is None:
        state = mx.zeros((k.shape[0], *k.shape[2:], v.shape[-1]), mx.float32)
    return _native_delta(q, k, v, g, beta, state)
