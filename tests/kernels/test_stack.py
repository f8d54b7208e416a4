"""All blocks of a backbone as one operation: numbers and caches of the blocks one by one, and when it steps aside."""

import copy
import gc
import weakref

import mlx.core as mx
import numpy as np
import pytest
from kernel_reference import numbers
from test_block import DIM, Adapted, address, make_block

from mlxlm import kernels
from mlxlm.cache import State
from mlxlm.decoder import Backbone
from mlxlm.layers import PreNorm, RMSNorm, Sandwich, fused

FOUR_BITS = {"group_size": 32, "bits": 4}


def make_backbone(layers=3, kind=PreNorm, **settings) -> Backbone:
    blocks = [make_block(kind, seed=i, **settings) for i in range(layers)]
    backbone = Backbone(20, DIM, blocks, RMSNorm(DIM, 1e-5))
    mx.eval(backbone.parameters())
    return backbone


def spoken(backbone, lengths, dtype=mx.float32, padding=None, batch=1, state=None, most=fused.MOST, seed=1):
    """What the backbone makes of several passes in turn, and its state."""
    rng = np.random.default_rng(seed)
    state = State([layer.make_cache() for layer in backbone.layers], padding) if state is None else state
    outs, before = [], fused.MOST
    fused.MOST = most
    try:
        for length in lengths:
            x = rng.standard_normal((batch, length, DIM)).astype(np.float32)
            outs.append(backbone(mx.array(x).astype(dtype), state))
            mx.async_eval(outs[-1], state.arrays)
    finally:
        fused.MOST = before
    return outs, state


def agree(backbone, lengths, dtype=mx.float32, padding=None, batch=1):
    (got, kept), (want, wanted) = (spoken(backbone, lengths, dtype, padding, batch, most=m) for m in (fused.MOST, 0))
    tolerance = {mx.float32: 3e-5, mx.float16: 2e-2, mx.bfloat16: 1e-1}[dtype]
    assert [c.offset for c in kept] == [c.offset for c in wanted]
    for a, b in zip((*got, *kept.arrays), (*want, *wanted.arrays), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        np.testing.assert_allclose(numbers(a), numbers(b), rtol=0, atol=tolerance * abs(numbers(b)).max())


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
@pytest.mark.parametrize("kind", [PreNorm, Sandwich])
def test_as_the_blocks_one_by_one(kind, dtype):
    backbone = make_backbone(kind=kind, dtype=dtype, quantized=FOUR_BITS, head_norms=True, bias=True)
    agree(backbone, (9, 1, 1, 3, 1), dtype)


def test_windows_and_sinks_beside_full_attention():
    backbone = make_backbone(sinks=True)
    backbone.layers[1] = make_block(PreNorm, window=7, sinks=True, seed=9)
    mx.eval(backbone.parameters())
    agree(backbone, (11, 1, 1, 4, 1, 1))


def test_a_batch_with_padding(counted):
    agree(make_backbone(quantized=FOUR_BITS), (9, 1, 1, 2, 1), padding=[3, 0], batch=2)
    assert counted.layers == 15


def test_past_the_end_of_a_buffer(counted):
    agree(make_backbone(), (254, 1, 1, 1, 1))
    assert counted.layers == 15


def test_a_block_between_that_runs_by_itself(counted):
    backbone = make_backbone(4)
    backbone.layers[2].self_attn.q_proj = Adapted(backbone.layers[2].self_attn.q_proj)
    agree(backbone, (9, 1, 1))
    assert counted.layers == 9  # those behind it run together too


def test_weights_that_are_read_when_they_are_needed(counted, tmp_path):
    backbone = make_backbone(2)
    (want, _), (_, state) = spoken(backbone, (3, 1), most=0), spoken(backbone, (3,))
    backbone.save_weights(str(tmp_path / "w.safetensors"))
    backbone.load_weights(str(tmp_path / "w.safetensors"))
    counted.layers, rng = 0, np.random.default_rng(1)
    xs = [mx.array(rng.standard_normal((1, length, DIM)).astype(np.float32)) for length in (3, 1)]
    got = backbone(xs[1], state)
    assert counted.layers == 2
    np.testing.assert_allclose(numbers(got), numbers(want[1]), rtol=0, atol=3e-5 * abs(numbers(want[1])).max())


class Twice(PreNorm):
    def __call__(self, x, cache, step):
        return super().__call__(x, cache, step) * 2


def test_a_block_with_a_call_of_its_own(counted):
    backbone = make_backbone(2)
    backbone.layers[0].__class__ = Twice
    agree(backbone, (9, 1, 1))
    assert counted.layers == 3  # the other one


def change_weight(backbone):
    backbone.layers[1].mlp.down_proj.scales = backbone.layers[1].mlp.down_proj.scales * 2


def change_part(backbone):
    backbone.layers[1].self_attn.k_proj = make_block(PreNorm, quantized=FOUR_BITS, seed=7).self_attn.k_proj


def change_layer(backbone):
    backbone.layers[0] = make_block(PreNorm, quantized=FOUR_BITS, seed=8)


def drop_layer(backbone):
    backbone.layers = backbone.layers[:2]


@pytest.mark.parametrize("change", [change_weight, change_part, change_layer, drop_layer])
def test_a_change_is_seen(change):
    backbone = make_backbone(quantized=FOUR_BITS)
    spoken(backbone, (5, 1))
    change(backbone)
    agree(backbone, (5, 1, 1))


def test_rows_added_after_a_layer():
    """What comes with the embeddings may belong between two blocks."""
    backbone = make_backbone()
    more = {("after", 0): mx.ones((1, 2, DIM))}
    x = mx.random.normal((1, 2, DIM), key=mx.random.key(0))
    got, want = [], []
    for most, outs in ((fused.MOST, got), (0, want)):
        before, fused.MOST = fused.MOST, most
        try:
            outs.append(backbone(x, State([layer.make_cache() for layer in backbone.layers]), shared=dict(more)))
        finally:
            fused.MOST = before
    np.testing.assert_allclose(numbers(got[0]), numbers(want[0]), rtol=1e-4, atol=1e-4)


def test_steps_in_flight_write_one_buffer():
    """The next step is asked for before the last one is done: it mustn't copy the cache for that."""
    backbone = make_backbone(6)
    _, state = spoken(backbone, (200,))
    mx.eval(state.arrays)
    before = [address(a) for a in state.arrays]
    spoken(backbone, (1,) * 40, state=state)
    mx.eval(state.arrays)
    assert [address(a) for a in state.arrays] == before


def test_a_copied_state_goes_its_own_way():
    backbone = make_backbone(quantized=FOUR_BITS)
    _, state = spoken(backbone, (9, 1))
    other = state.copy()
    spoken(backbone, (1, 1), state=state)
    kept = [numbers(a)[:, :, :10] for a in other.arrays]
    spoken(backbone, (3,), state=other, seed=2)
    for a, b in zip(other.arrays, kept, strict=True):
        np.testing.assert_array_equal(numbers(a)[:, :, :10], b)
    assert not np.array_equal(numbers(state[0].keys[:, :, 11]), numbers(other[0].keys[:, :, 11]))


def test_gradients_go_block_by_block():
    backbone = make_backbone(2)
    x = mx.random.normal((1, 1, DIM), key=mx.random.key(0))

    def loss(weights, most):
        backbone.update(weights)
        before, fused.MOST = fused.MOST, most
        try:
            state = State([layer.make_cache() for layer in backbone.layers])
            for cache in state:
                cache.update_and_fetch(*(mx.ones((1, 2, 2, 32)),) * 2)
            state.offset = 2
            return (backbone(x, state) ** 2).sum()
        finally:
            fused.MOST = before

    weights = backbone.parameters()
    spoken(backbone, (3, 1))  # a stack that knows the weights as they were
    got, want = (mx.grad(loss)(weights, most) for most in (fused.MOST, 0))
    backbone.update(weights)
    for i in range(2):
        a, b = (numbers(g["layers"][i]["mlp"]["up_proj"]["weight"]) for g in (got, want))
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * abs(b).max())


def test_a_copy_of_the_model_has_a_stack_of_its_own():
    backbone = make_backbone(2)
    spoken(backbone, (3, 1))
    other = copy.deepcopy(backbone)
    other.layers[0].mlp.up_proj.weight = other.layers[0].mlp.up_proj.weight * 3
    agree(other, (3, 1))


def test_a_model_is_let_go_of():
    backbone = make_backbone(2)
    spoken(backbone, (3, 1))
    gone = weakref.ref(backbone.layers[0])
    del backbone
    gc.collect()
    assert gone() is None


def test_without_kernels(monkeypatch):
    monkeypatch.setattr(fused.ops, "native", None)
    agree(make_backbone(2), (3, 1))
    assert kernels.in_force()
