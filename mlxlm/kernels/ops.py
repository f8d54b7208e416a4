"""The operations that the layers call: each is the native kernel where one is in force, else its plain ``mx`` twin.

The choice is made once, when this module is imported (``mlxlm.kernels.in_force()`` tells which and why). Arguments and
results, for both versions:

- ``rms_norm(x, weight, eps)``: over the last axis; ``weight`` (D,) or None.
- ``layer_norm(x, weight, bias, eps)``: over the last axis; ``weight`` and ``bias`` (D,) or None.
- ``rope(x, dims, *, traditional, base, scale, offset, freqs)``: x (B, ..., L, D), as ``mx.fast.rope``; ``offset`` is
  an int or an array of () or (B,); ``base`` is ignored where ``freqs`` (dims/2,) is given.
- ``attention(q, k, v, *, scale, mask, sinks, cap)``: q (B, Hq, L, D), k (B, Hk, S, D), v (B, Hk, S, Dv), as
  ``mx.fast.scaled_dot_product_attention``; ``mask`` is None, "causal", or a boolean or additive array that
  broadcasts to (B, Hq, L, S); ``sinks`` (Hq,). With a ``cap`` scores become cap * tanh(score / cap) before the mask.
- ``argmax(x)``: the place of the largest number over the last axis, uint32; the first among equals.
- ``swiglu(gate, up)``: silu(gate) * up, same shapes; ``geglu(gate, up)``: gelu(gate) * up, by gelu's tanh form.
- ``silu(x)``: x * sigmoid(x); ``gelu(x)``: by the error function; ``gelu_tanh(x)``: by tanh; ``quick_gelu(x)``:
  x * sigmoid(1.702 x); ``relu2(x)``: the square of max(x, 0).
- ``matmul(a, b)``: a (..., M, K) by b (..., K, N), whose batches broadcast.
- ``linear(x, weight, bias)``: x (..., K) by weight (N, K), result (..., N); or (..., M, K) by weights (..., N, K).
- ``quantized_matmul(x, w, scales, biases, *, transpose, group_size, bits, mode)``: as ``mx.quantized_matmul``, but the
  result always has x's dtype, whatever dtype the scales have.
- ``quantized_linear(x, w, scales, biases, bias, *, group_size, bits, mode, int8)``: the same, transposed, plus ``bias``
  (N,). ``int8`` lets activations of more than eight positions be rounded: see ``mlxlm.kernels.rounding``.
- ``gather_qmm(...)``, ``gather_mm(...)``: as ``mx.gather_qmm`` (with x's dtype) and ``mx.gather_mm``.
- ``quantized_embedding(indices, w, scales, biases, *, group_size, bits, mode, dtype)``: rows of a quantized table,
  dequantized to ``dtype`` (the scales' dtype when None).
- ``causal_conv(x, weight, bias)``: x (B, width - 1 + L, C) by weight (C, width, 1), each channel for itself: (B, L, C).
- ``conv2d(x, weight, bias, *, stride, padding, dilation, groups)``: x (N, H, W, C) by weight (O, kh, kw, C / groups),
  as ``mx.conv2d``; ``padding`` is ((above, below), (left, right)), the others are pairs of rows and columns.
- ``route(logits, bias, *, k, softmax, groups, keep_groups, group_best, normalise, scale, eps)``: (picks, weights), both
  (..., k), of logits (..., experts): the ``k`` best, in any order. ``softmax`` is "before" the choice, "after" it
  over the chosen, or None; ``bias`` (experts,) steers the choice alone. Of ``groups`` of experts ``keep_groups`` stay
  in the race, each worth its ``group_best`` best. If ``normalise``, weights not softmaxed after are divided by their
  sum + ``eps``; all are multiplied by ``scale``.
- ``selective_scan(...)``, ``ssm_scan(...)``, ``delta_scan(...)``: see ``mlxlm.kernels.recurrent``.
"""

from mlxlm.kernels import plain
from mlxlm.kernels.choice import CHOICE
from mlxlm.kernels.recurrent import delta_scan, selective_scan, ssm_scan

__all__ = [
    "argmax", "attention", "causal_conv", "conv2d", "delta_scan", "gather_mm", "gather_qmm", "geglu", "gelu",
    "gelu_tanh", "layer_norm", "linear", "matmul", "native", "quantized_embedding", "quantized_linear",
    "quantized_matmul", "quick_gelu", "relu2", "rms_norm", "rope", "route", "selective_scan", "silu", "ssm_scan",
    "swiglu",
]

native = CHOICE.module  # None where there is none; what has no plain twin is asked of it by layers


def _pick(name: str):
    return getattr(native, name, None) or getattr(plain, name)


argmax = _pick("argmax")
attention = _pick("attention")
causal_conv = _pick("causal_conv")
conv2d = _pick("conv2d")
gather_mm = _pick("gather_mm")
gather_qmm = _pick("gather_qmm")
geglu = _pick("geglu")
gelu = _pick("gelu")
gelu_tanh = _pick("gelu_tanh")
layer_norm = _pick("layer_norm")
linear = _pick("linear")
matmul = _pick("matmul")
quantized_embedding = _pick("quantized_embedding")
quantized_linear = _pick("quantized_linear")
quantized_matmul = _pick("quantized_matmul")
quick_gelu = _pick("quick_gelu")
relu2 = _pick("relu2")
rms_norm = _pick("rms_norm")
rope = _pick("rope")
silu = _pick("silu")
swiglu = _pick("swiglu")


def route(logits, bias=None, *, k, softmax=None, groups=1, keep_groups=1, group_best=2, normalise=True, scale=1.0,
          eps=0.0):
    if native is not None:
        made = native.route(logits, bias, k, softmax or "", groups, keep_groups, group_best, normalise, scale, eps)
        if made is not None:
            return made
    return plain.route(logits, bias, k=k, softmax=softmax, groups=groups, keep_groups=keep_groups,
                       group_best=group_best, normalise=normalise, scale=scale, eps=eps)
