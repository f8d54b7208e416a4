"""Every operation in plain ``mx``: what runs on Metal and CUDA, and what the native kernels are tested against.

The signatures are those of ``mlxlm.kernels.ops``; see there for the meaning of the arguments.
"""

from __future__ import annotations

import mlx.core as mx


def rms_norm(x, weight, eps):
    return mx.fast.rms_norm(x, weight, eps)


def layer_norm(x, weight, bias, eps):
    return mx.fast.layer_norm(x, weight, bias, eps)


def rope(x, dims, *, traditional=False, base=10000.0, scale=1.0, offset=0, freqs=None):
    return mx.fast.rope(
        x, dims, traditional=traditional, base=None if freqs is not None else base, scale=scale, offset=offset,
        freqs=freqs,
    )


def attention(q, k, v, *, scale, mask=None, sinks=None, cap=None):
    if cap is None:
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask, sinks=sinks)
    (b, heads, length, _), (kv_heads, total) = q.shape, k.shape[1:3]
    scores = mx.unflatten(q * scale, 1, (kv_heads, -1)) @ k[:, :, None].swapaxes(-1, -2)
    scores = cap * mx.tanh(scores / cap)
    if mask == "causal" if isinstance(mask, str) else mask is not None:
        visible = by_key_head(seen(mask, length, total), kv_heads)
        hidden = mx.array(mx.finfo(scores.dtype).min, scores.dtype)
        scores = mx.where(visible, scores, hidden) if visible.dtype == mx.bool_ else scores + visible
    if sinks is not None:
        column = mx.unflatten(sinks[None, :, None, None].astype(scores.dtype), 1, (kv_heads, -1))
        scores = mx.concatenate([mx.broadcast_to(column, (*scores.shape[:-1], 1)), scores], axis=-1)
    weights = mx.softmax(scores, axis=-1, precise=True)[..., -total:]
    return (weights @ v[:, :, None]).reshape(b, heads, length, -1)


def seen(mask, length: int, total: int) -> mx.array:
    """"causal" as booleans (length, total); an array as it is."""
    if not isinstance(mask, str):
        return mask
    return mx.arange(total) <= mx.arange(total - length, total)[:, None]


def by_key_head(mask: mx.array, kv_heads: int) -> mx.array:
    """A mask that broadcasts to (B, heads, L, S) as one for (B, kv_heads, heads / kv_heads, L, S)."""
    if mask.ndim < 3:
        return mask
    mask = mask[None] if mask.ndim == 3 else mask
    return mask[:, :, None] if mask.shape[1] == 1 else mx.unflatten(mask, 1, (kv_heads, -1))


def causal_conv(x, weight, bias=None):
    y = mx.conv1d(x, weight, groups=x.shape[-1])
    return y if bias is None else y + bias


def argmax(x):
    return mx.argmax(x, axis=-1)


def conv2d(x, weight, bias=None, *, stride=(1, 1), padding=((0, 0), (0, 0)), dilation=(1, 1), groups=1):
    before, after = zip(*padding, strict=True)
    y = mx.conv_general(x, weight, stride, (list(before), list(after)), dilation, groups=groups)
    return y if bias is None else y + bias


def silu(x):
    return x * mx.sigmoid(x)


def gelu(x):
    return x * (1 + mx.erf(x * 0.70710678118)) / 2  # the square root of 1 / 2


def gelu_tanh(x):
    return geglu(x, 1)


def relu2(x):
    return mx.square(mx.maximum(x, 0))


def quick_gelu(x):
    return x * mx.sigmoid(1.702 * x)


def swiglu(gate, up):
    return gate * mx.sigmoid(gate) * up


def geglu(gate, up):
    u = 0.7978845608 * (gate + 0.044715 * gate * gate * gate)  # the square root of 2 / pi
    return 0.5 * gate * (1 + mx.tanh(u)) * up


def matmul(a, b):
    return a @ b


def linear(x, weight, bias=None):
    y = x @ weight.swapaxes(-1, -2)
    return y if bias is None else y + bias


def quantized_matmul(x, w, scales, biases=None, *, transpose=True, group_size=None, bits=None, mode="affine"):
    y = mx.quantized_matmul(
        x, w, scales, biases, transpose=transpose, group_size=group_size, bits=bits, mode=mode
    )
    return y.astype(x.dtype)


def quantized_linear(x, w, scales, biases=None, bias=None, *, group_size=None, bits=None, mode="affine", int8=False):
    y = mx.quantized_matmul(x, w, scales, biases, transpose=True, group_size=group_size, bits=bits, mode=mode)
    return (y if bias is None else y + bias).astype(x.dtype)


def gather_qmm(x, w, scales, biases=None, *, lhs_indices=None, rhs_indices=None, transpose=True, group_size=None,
               bits=None, mode="affine", global_scale=None, sorted_indices=False):
    y = mx.gather_qmm(
        x, w, scales, biases, lhs_indices=lhs_indices, rhs_indices=rhs_indices, transpose=transpose,
        group_size=group_size, bits=bits, mode=mode, global_scale=global_scale, sorted_indices=sorted_indices,
    )
    return y.astype(x.dtype)


def gather_mm(x, w, *, lhs_indices=None, rhs_indices=None, sorted_indices=False):
    dtype = mx.result_type(x, w)
    if mx.default_device() == mx.Device(mx.cpu, 0):  # where mx.gather_mm takes float32 only
        x, w = x.astype(mx.float32), w.astype(mx.float32)
    y = mx.gather_mm(x, w, lhs_indices=lhs_indices, rhs_indices=rhs_indices, sorted_indices=sorted_indices)
    return y.astype(dtype)


def quantized_embedding(indices, w, scales, biases=None, *, group_size=None, bits=None, mode="affine", dtype=None):
    scales, biases = scales[indices], None if biases is None else biases[indices]
    if dtype is not None and biases is not None:  # MLX rounds to the scales' dtype first
        wide = mx.array(0, dtype)
        scales, biases = (a.astype(mx.result_type(a, wide)) for a in (scales, biases))
    return mx.dequantize(w[indices], scales=scales, biases=biases, group_size=group_size, bits=bits, mode=mode,
                         dtype=dtype)


def route(logits, bias=None, *, k, softmax=None, groups=1, keep_groups=1, group_best=2, normalise=True, scale=1.0,
          eps=0.0):
    scores = mx.softmax(logits, axis=-1, precise=True) if softmax == "before" else logits
    choice = scores if bias is None else scores + bias
    if groups > 1:
        choice = _losers_out(choice, groups, keep_groups, group_best)
    # MLX has no gradient of an index.
    picks = mx.stop_gradient(mx.argpartition(-choice, kth=k - 1, axis=-1)[..., :k])
    weights = mx.take_along_axis(scores, picks, axis=-1)
    if softmax == "after":
        weights = mx.softmax(weights, axis=-1, precise=True)
    elif normalise:
        weights = weights / (weights.sum(-1, keepdims=True) + eps)
    return picks, weights if scale == 1 else weights * scale


def _losers_out(choice, groups, keep, best):
    """``choice`` with the experts of the losing groups at minus infinity."""
    choice = mx.unflatten(choice, -1, (groups, -1))
    worth = mx.topk(choice, min(best, choice.shape[-1]), axis=-1).sum(-1)
    kept = mx.stop_gradient(mx.argpartition(-worth, kth=keep - 1, axis=-1)[..., :keep])
    mask = mx.put_along_axis(mx.zeros(worth.shape, mx.bool_), kept, mx.array(True), axis=-1)
    return mx.where(mask[..., None], choice, -mx.inf).flatten(-2)
