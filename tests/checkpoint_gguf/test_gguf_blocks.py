"""Every type of block, repacked, against the gguf package's own dequantizer."""

from pathlib import Path

import gguf
import mlx.core as mx
import numpy as np
import pytest
from gguf import quants

from mlxlm.checkpoint import gguf_blocks as blocks
from mlxlm.checkpoint.gguf_header import TYPES, Tensor

EXACT = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "IQ4_NL", "IQ4_XS", "MXFP4"]
ROUNDED = ["Q2_K", "Q3_K", "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"]
HALVES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q4_K": [0, 2], "Q5_K": [0, 2],
          "IQ4_NL": [0], "IQ4_XS": [0], "Q2_K": [80, 82], "Q3_K": [108], "Q6_K": [208], "IQ1_S": [0], "IQ2_XXS": [0],
          "IQ2_XS": [0], "IQ2_S": [0], "IQ3_XXS": [0], "IQ3_S": [0], "TQ1_0": [52], "TQ2_0": [64]}


def block(name):
    return next(b for b in TYPES.values() if b.name == name)


def tensor(name, data, cols):
    return Tensor(Path("f.gguf"), "w", (data.shape[0], cols), block(name), data)


def random_blocks(name, rows, cols, scale, seed=0):
    """Random bytes, with finite scales of about ``scale`` where the type keeps them in float16."""
    rng, b = np.random.default_rng(seed), block(name)
    data = rng.integers(0, 256, (rows * cols // b.weights, b.bytes), dtype=np.uint8)
    for at in HALVES.get(name, []):
        halves = (rng.normal(size=len(data)) * scale).clip(-60000, 60000).astype(np.float16)
        data[:, at : at + 2] = halves.view(np.uint8).reshape(-1, 2)
    if name == "MXFP4":
        data[:, 0] = rng.integers(2, 250, len(data))
    if name == "IQ1_M":  # the four top nibbles of the scales are a float16
        data[:, [49, 51, 53, 55]] = (data[:, [49, 51, 53, 55]] & 0x0F) | np.array([0x00, 0x00, 0x00, 0x30], np.uint8)
    return data.reshape(rows, -1)


def oracle(name, data):
    return quants.dequantize(data, gguf.GGMLQuantizationType[name])


def dequantized(packed, dtype=mx.float32):
    arrays = [mx.array(packed.weight), mx.array(packed.scales)]
    if packed.biases is not None:
        arrays = [arrays[0], arrays[1].astype(dtype), mx.array(packed.biases).astype(dtype)]
    out = mx.dequantize(*arrays, group_size=32, bits=packed.bits, mode=packed.mode)
    return np.array(out.astype(mx.float32))


@pytest.mark.parametrize("scale", [1e-7, 1.0, 400.0, 6e4])  # the smallest are subnormal in float16
@pytest.mark.parametrize("name", EXACT)
def test_blocks_keep_every_value(name, scale):
    data = random_blocks(name, 24, 512, scale)
    packed = blocks.repack(tensor(name, data, 512))
    assert packed.weight.shape == (24, 512 * packed.bits // 32) and packed.scales.shape == (24, 16)
    np.testing.assert_array_equal(dequantized(packed), oracle(name, data))


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_real_weights_keep_every_value(name):
    values = np.random.default_rng(1).normal(size=(64, 256)).astype(np.float32) / 16
    data = quants.quantize(values, gguf.GGMLQuantizationType[name])
    got = dequantized(blocks.repack(tensor(name, data, 256)))
    np.testing.assert_array_equal(got, oracle(name, data))
    assert np.abs(got - values).max() < 0.05


def scales_of(packed):
    assert packed.scales.dtype == packed.biases.dtype
    return packed.scales.dtype


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL"])
def test_the_scales_of_the_plain_types_are_float16(name):
    assert scales_of(blocks.repack(tensor(name, random_blocks(name, 8, 256, 1.0), 256))) == np.float16


@pytest.mark.parametrize("name, half", [("Q4_0", 8), ("Q5_0", 16), ("Q8_0", 128), ("IQ4_NL", 128)])
def test_an_offset_that_float16_lacks_makes_all_scales_float32(name, half, monkeypatch):
    monkeypatch.setattr(blocks, "PART", 256)  # a row at a time: the rows before are widened
    for d, wide in ((65504 / half, False), (-65504 / half, False), (65568 / half, True)):
        data = random_blocks(name, 8, 256, 1.0)
        data.reshape(-1, block(name).bytes)[33, :2] = np.array([d], np.float16).view(np.uint8)
        packed = blocks.repack(tensor(name, data, 256))
        assert scales_of(packed) == (np.float32 if wide else np.float16)
        np.testing.assert_array_equal(dequantized(packed), oracle(name, data))


@pytest.mark.parametrize("d", [np.inf, -np.inf, np.nan])
def test_damaged_scales_stay_what_they_are(d):
    data = random_blocks("Q4_0", 2, 64, 1.0)
    data[:, :2] = np.array([d], np.float16).view(np.uint8)
    packed = blocks.repack(tensor("Q4_0", data, 64))
    np.testing.assert_array_equal(packed.scales[:, 0], np.full(2, d, np.float32))
    np.testing.assert_array_equal(packed.biases[:, 0], np.full(2, -d, np.float32))


@pytest.mark.parametrize("name", ["Q4_K", "Q5_K"])
def test_float16_scales_of_k_types_lose_what_is_said(name):
    packed = blocks.repack(tensor(name, random_blocks(name, 32, 512, 0.01), 512))
    for values in (packed.scales, packed.biases):
        error = np.abs(values.astype(np.float16).astype(np.float32) - values)
        assert error.max() > 0 and (error <= np.maximum(np.abs(values) * 2.0**-11, 2.0**-25)).all()


@pytest.mark.parametrize("name", ROUNDED)
def test_groups_of_16_are_rounded_to_8_bits(name):
    data = random_blocks(name, 8, 512, 0.1)
    packed, exact = blocks.repack(tensor(name, data, 512)), oracle(name, data)
    assert packed.bits == 8
    groups = exact.reshape(-1, 32)
    spread = groups.max(axis=1) - groups.min(axis=1)
    assert spread.max() > 0
    error = np.abs(dequantized(packed).reshape(-1, 32) - groups).max(axis=1)
    assert (error <= spread / 510 + np.abs(groups).max(axis=1) * 1e-6).all()


def test_q6_k_keeps_the_coarser_half_of_each_group():
    data = random_blocks("Q6_K", 64, 1024, 0.1)
    exact = oracle("Q6_K", data).reshape(-1, 2, 16)
    got = dequantized(blocks.repack(tensor("Q6_K", data, 1024))).reshape(-1, 2, 16)
    scales = np.abs(data.reshape(-1, 210)[:, 192:208].view(np.int8).astype(int)).reshape(-1, 2)
    error, largest = np.abs(got - exact), np.abs(exact).max(axis=(1, 2))
    coarser = np.take_along_axis(error, scales.argmax(axis=1)[:, None, None], axis=1)
    assert (coarser.max(axis=(1, 2)) <= 1e-6 * largest).all()
    # 254 levels of whole fractions, four to the step at least: never more than 5/4 of a 508th of the range.
    spread = exact.max(axis=(1, 2)) - exact.min(axis=(1, 2))
    assert (error.max(axis=(1, 2)) <= 1.25 * spread / 508 + 1e-6 * largest).all()
    alike = scales[:, 0] == scales[:, 1]
    assert alike.any() and (error[alike].max(axis=(1, 2)) <= 1e-6 * largest[alike]).all()


def test_q6_k_is_read_as_the_gguf_package_reads_it():
    data = random_blocks("Q6_K", 16, 1024, 0.1)
    np.testing.assert_array_equal(blocks.numbers(tensor("Q6_K", data, 1024)), oracle("Q6_K", data))


def test_a_group_of_equal_weights_stays_as_it_is():
    data = random_blocks("Q6_K", 1, 256, 0.1)
    data[:, :192] = 0  # every code the same
    data[:, 192:208] = 5
    exact = oracle("Q6_K", data)
    assert len(np.unique(exact)) == 1
    np.testing.assert_array_equal(dequantized(blocks.repack(tensor("Q6_K", data, 256))), exact)


@pytest.mark.parametrize("name", ["TQ1_0", "TQ2_0"])
def test_ternary_blocks_are_plain_float16(name):
    data = random_blocks(name, 4, 512, 0.1)
    values = blocks.numbers(tensor(name, data, 512))
    assert blocks.is_plain(tensor(name, data, 512)) and values.dtype == np.float16
    np.testing.assert_array_equal(values.astype(np.float32), oracle(name, data))


def test_rows_longer_than_a_part_and_odd_counts_of_rows(monkeypatch):
    data = random_blocks("Q5_1", 13, 256, 0.1)
    monkeypatch.setattr(blocks, "PART", 1024)
    np.testing.assert_array_equal(dequantized(blocks.repack(tensor("Q5_1", data, 256))), oracle("Q5_1", data))


def test_the_table_of_types_is_the_gguf_packages():
    for number, ours in TYPES.items():
        kind = gguf.GGMLQuantizationType(number)
        assert (kind.name, *gguf.GGML_QUANT_SIZES[kind]) == (ours.name, ours.weights, ours.bytes)
