"""Tensors made a part at a time are those that are made at once, whatever their shapes."""

import mlx.core as mx
import pytest

from mlxlm import piecewise
from mlxlm.convert.fit import fitted


@pytest.mark.parametrize("shape", [(), (3,), (3, 5), (2, 3, 4)])
@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize("dtypes", [(mx.float32,), (mx.bfloat16, mx.float16), (mx.uint32,), (mx.int32, mx.bfloat16)])
def test_a_stack_is_mlx_own(shape, count, dtypes):
    parts = [mx.random.randint(0, 99, shape).astype(dtypes[i % len(dtypes)]) for i in range(count)]
    made, wanted = piecewise.stack(parts), mx.stack(parts)
    assert made.dtype == wanted.dtype and mx.array_equal(made, wanted)


@pytest.mark.parametrize("shape", [(1, 64), (7, 64), (3, 5, 128), (4, 1, 64), (2, 2, 3, 64), (0, 64), (2, 0, 64)])
@pytest.mark.parametrize("most", [1, 64, 200, 1 << 20])
def test_rows_are_quantized_as_the_whole_is(shape, most):
    w = mx.random.normal(shape)
    made = piecewise.by_rows(w, lambda rows: (rows * 2, rows.sum(-1, keepdims=True)), most)
    assert mx.array_equal(made[0], w * 2) and made[1].shape == (*shape[:-1], 1)
    if w.size:
        made = piecewise.by_rows(w, lambda rows: tuple(mx.quantize(rows, 32, 4)), most)
        assert all(mx.array_equal(a, b) for a, b in zip(made, mx.quantize(w, 32, 4), strict=True))


def test_views_are_taken_as_they_lie():
    w = mx.random.normal((3, 10, 64))
    for view in (w[:, 2:7], w.swapaxes(0, 1), w[::2]):
        made = piecewise.by_rows(view, lambda rows: tuple(mx.quantize(rows, 32, 8)), 128)
        assert all(mx.array_equal(a, b) for a, b in zip(made, mx.quantize(mx.contiguous(view), 32, 8), strict=True))


def test_experts_are_fitted_one_by_one_to_the_same_codes():
    w = mx.random.normal((3, 8, 64)).astype(mx.bfloat16)
    whole, one = fitted(w, 4, 32), [fitted(w[i], 4, 32) for i in range(3)]
    assert all(mx.array_equal(whole[k], mx.stack([part[k] for part in one])) for k in range(3))
