"""Convolutions of images against float64."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_reference import DTYPES, check, numbers, random

from mlxlm.kernels import ops
from mlxlm.vision.convs import Conv, SameConv

dtypes = st.sampled_from(list(DTYPES.values()))
few = st.integers(1, 3)


def convolution(x, w, bias, stride, padding, dilation, groups):
    """x (N, H, W, C) by w (O, kh, kw, C / groups) in float64, by the definition."""
    x = np.pad(x, [(0, 0), *padding, (0, 0)])
    count, kh, kw, each = w.shape
    rows, columns = ((n - d * (k - 1) - 1) // s + 1 for n, d, k, s in zip(x.shape[1:3], dilation, (kh, kw), stride,
                                                                          strict=True))
    out = np.zeros((x.shape[0], rows, columns, count)) + bias
    for o in range(count):
        part = x[..., o * groups // count * each : (o * groups // count + 1) * each]
        for i in range(kh):
            for j in range(kw):
                seen = part[:, i * dilation[0] :: stride[0], j * dilation[1] :: stride[1]][:, :rows, :columns]
                out[..., o] += seen @ w[o, i, j]
    return out


def compare(x, w, bias, dtype=None, **how):
    want, bound = (convolution(of(numbers(x)), of(numbers(w)), 0 if bias is None else of(numbers(bias)), **how)
                   for of in (np.array, abs))
    check(ops.conv2d(x, w, bias, **how), want, bound + 1, dtype)


@given(
    n=st.integers(1, 2), size=st.tuples(st.integers(5, 23), st.integers(5, 23)), kernel=st.tuples(few, few),
    stride=st.tuples(few, few), padding=st.tuples(*(st.tuples(st.integers(0, 2), st.integers(0, 2)),) * 2),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)), groups=few, each=st.integers(1, 9), out=st.integers(1, 9),
    x_type=dtypes, w_type=dtypes, biased=st.booleans(), seed=st.integers(0, 9),
)
def test_channels_together(n, size, kernel, stride, padding, dilation, groups, each, out, x_type, w_type, biased, seed):
    rng = np.random.default_rng(seed)
    x, w = random(rng, (n, *size, groups * each), x_type), random(rng, (groups * out, *kernel, each), w_type)
    bias = random(rng, (groups * out,), w_type) if biased else None
    compare(x, w, bias, x_type if x_type == w_type else mx.float32, stride=stride, padding=padding, dilation=dilation,
            groups=groups)


@given(
    size=st.tuples(st.integers(1, 20), st.integers(1, 30)), channels=st.integers(1, 40), times=few,
    kernel=st.sampled_from(((1, 1), (3, 3), (5, 3), (7, 7))), stride=st.integers(1, 2), dilation=st.integers(1, 2),
    x_type=dtypes, w_type=dtypes, biased=st.booleans(),
)
def test_each_channel_for_itself(size, channels, times, kernel, stride, dilation, x_type, w_type, biased):
    rng = np.random.default_rng(channels)
    x, w = random(rng, (2, *size, channels), x_type), random(rng, (times * channels, *kernel, 1), w_type)
    bias = random(rng, (times * channels,)) if biased else None
    padding = tuple((d, d) for d in (dilation * (k // 2) for k in kernel))
    compare(x, w, bias, stride=(stride, stride), padding=padding, dilation=(dilation, dilation), groups=channels)


def test_an_image_in_several_bands():
    rng = np.random.default_rng(0)
    x, w = random(rng, (1, 90, 300, 3)), random(rng, (3, 7, 7, 1))
    compare(x, w, None, stride=(1, 1), padding=((3, 3), (3, 3)), dilation=(1, 1), groups=3)


def test_strides_in_memory():
    rng = np.random.default_rng(0)
    x, w = random(rng, (2, 5, 12, 11)).transpose(0, 3, 2, 1), random(rng, (4, 5, 3, 3)).transpose(0, 2, 3, 1)
    compare(x, w, None, stride=(1, 1), padding=((1, 0), (0, 2)), dilation=(1, 1), groups=1)


def test_what_is_not_a_number_stays_where_it_is():
    x = mx.zeros((1, 6, 6, 2))
    x[0, 1, 1, 0], x[0, 4, 4, 1] = mx.nan, mx.inf
    for groups, w in ((1, mx.ones((2, 3, 3, 2))), (2, mx.ones((2, 3, 3, 1)))):
        y = np.array(ops.conv2d(x, w, groups=groups))[0]
        assert np.isnan(y[:2, :2, 0]).all() and np.isinf(y[2:, 2:, 1]).any() and y[0, 3].tolist() == [0, 0]


def test_a_kernel_that_does_not_fit_is_refused():
    with pytest.raises(ValueError):
        mx.eval(ops.conv2d(mx.ones((1, 2, 2, 3)), mx.ones((4, 3, 3, 3))))


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_gradients_are_the_plain_ones(groups):
    rng = np.random.default_rng(0)
    x, w, b = random(rng, (1, 7, 8, 6)), random(rng, (6, 3, 3, 6 // groups)), random(rng, (6,))

    def loss(conv):
        return lambda x, w, b: (conv(x, w, b) ** 2).sum()

    got = mx.grad(loss(lambda x, w, b: ops.conv2d(x, w, b, stride=(2, 1), groups=groups)), argnums=(0, 1, 2))(x, w, b)
    want = mx.grad(loss(lambda x, w, b: mx.conv2d(x, w, (2, 1), groups=groups) + b), argnums=(0, 1, 2))(x, w, b)
    for a, c in zip(got, want, strict=True):
        check(a, numbers(c), 400)


@pytest.mark.parametrize("kind", [Conv, SameConv])
@pytest.mark.parametrize(("kernel", "stride", "groups"), [(3, 1, 1), (3, 2, 1), (7, 2, 4), (1, 1, 1), (1, 2, 1)])
def test_the_towers_convolutions(kind, kernel, stride, groups):
    rng = np.random.default_rng(0)
    conv = kind(4, 8, kernel, stride, groups)
    conv.weight, conv.bias = random(rng, conv.weight.shape), random(rng, (8,))
    x = random(rng, (1, 13, 10, 4))
    if kind is Conv:
        padding = ((kernel // 2, kernel // 2),) * 2
    else:  # as little as makes ceil(n / stride) positions
        needed = [max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in (13, 10)]
        padding = tuple((n // 2, n - n // 2) for n in needed)
    want = convolution(numbers(x), numbers(conv.weight), numbers(conv.bias), (stride, stride), padding, (1, 1), groups)
    check(conv(x), want, 100)
