"""The operations that the layers call: each is the native kernel where one is in force, else its plain ``mx`` twin.

The choice is made once, when this module is imported (``mlxlm.kernels.in_force()`` tells which and why). Arguments and
results, for both versions:

- ``rms_norm(x, weight, eps)``: over the last axis; ``weight`` (D,) or None.
- ``layer_norm(x, weight, bias, eps)``: over the last axis; ``weight`` and ``bias`` (D,) or None.
- ``rope(x, dims, *, traditional, base, scale, offset, freqs)``: x (B, ..., L, D), as ``mx.fast.rope``; ``offset`` is
  an int or an array of () or (B,); ``base`` is ignored where ``freqs`` (dims/2,) is given.
- ``attention(q, k, v, *, scale, mask, sinks)``: q (B, Hq, L, D), k (B, Hk, S, D), v (B, Hk, S, Dv), as
  ``mx.fast.scaled_dot_product_attention``; ``mask`` is None, "causal", or a boolean or additive array that
  broadcasts to (B, Hq, L, S); ``sinks`` (Hq,).
- ``swiglu(gate, up)``: silu(gate) * up, same shapes.
- ``linear(x, weight, bias)``: x (..., K) by weight (N, K), result (..., N).
- ``quantized_matmul(x, w, scales, biases, *, transpose, group_size, bits, mode)``: as ``mx.quantized_matmul``, but the
  result always has x's dtype, whatever dtype the scales have.
- ``gather_qmm(...)``, ``gather_mm(...)``: as ``mx.gather_qmm`` (with x's dtype) and ``mx.gather_mm``.
- ``quantized_embedding(indices, w, scales, biases, *, group_size, bits, mode, dtype)``: rows of a quantized table,
  dequantized to ``dtype`` (the scales' dtype when None).
"""

from mlxlm.kernels.plain import (
    attention,
    gather_mm,
    gather_qmm,
    layer_norm,
    linear,
    quantized_embedding,
    quantized_matmul,
    rms_norm,
    rope,
    swiglu,
)

__all__ = [
    "attention",
    "gather_mm",
    "gather_qmm",
    "layer_norm",
    "linear",
    "quantized_embedding",
    "quantized_matmul",
    "rms_norm",
    "rope",
    "swiglu",
]
