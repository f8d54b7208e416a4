"""Broken GGUF files: an MLXLMError that names the file, in a moment and little memory, whatever the bytes are."""

import random
import resource
import struct
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import quants

sys.path.insert(0, str(Path(__file__).parents[1] / "checkpoint_gguf"))
from gguf_made import llama, tokenizer, write

from mlxlm.checkpoint.gguf import open_gguf
from mlxlm.errors import MLXLMError, WeightError
from mlxlm.load import load_model


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(bytes of a good file, where its tensors' bytes start)"""
    metadata, tensors = llama()
    q8 = gguf.GGMLQuantizationType.Q8_0
    packed = {n: (quants.quantize(v, q8), q8) if v.ndim == 2 else v for n, v in tensors.items()}
    path = write(tmp_path_factory.mktemp("good") / "m.gguf", "llama", {**metadata, **tokenizer()}, packed)
    used(path)
    return path.read_bytes(), min(t.data_offset for t in gguf.GGUFReader(path).tensors)


def used(path):
    """All that a load does with a file: config, tokenizer, weights."""
    checkpoint = open_gguf(path)
    checkpoint.tokenizer_parts()
    return checkpoint.load_weights()


def refused(tmp_path, data, *words, load=None):
    path = tmp_path / "bad.gguf"
    path.write_bytes(data)
    with pytest.raises(MLXLMError) as e:
        (load or used)(path)
    assert "bad.gguf" in str(e.value) and all(word in str(e.value) for word in words), str(e.value)


def survived(path, data):
    """Read to the end or refused: nothing else may come of any bytes."""
    path.write_bytes(data)
    try:
        used(path)
    except MLXLMError as e:
        assert "m.gguf" in str(e)


def test_cut_anywhere(whole, tmp_path):
    data, start = whole
    for size in [*range(0, 64), *range(64, start, 7), *range(start, len(data) - 32, 4099)]:
        refused(tmp_path, data[:size])


@pytest.mark.parametrize("at, what", [(8, "tensors"), (16, "metadata keys")])
@pytest.mark.parametrize("value", [2**64 - 1, 2**63, 2**40, 10**6])
def test_counts_that_lie(whole, tmp_path, at, what, value):
    data = bytearray(whole[0])
    data[at : at + 8] = struct.pack("<Q", value)
    refused(tmp_path, data)


@pytest.mark.parametrize("at", [8, 16])
def test_counts_that_are_a_little_off(whole, tmp_path, at):
    count = struct.unpack_from("<Q", whole[0], at)[0]
    for value in (0, 1, count - 1, count + 1):
        data = bytearray(whole[0])
        data[at : at + 8] = struct.pack("<Q", value)
        refused(tmp_path, data, load=load_model)  # too few tensors show when the model misses them


def test_other_magic_version_and_order(whole, tmp_path):
    refused(tmp_path, b"GGML" + whole[0][4:], "GGUF")
    refused(tmp_path, b"PK\x03\x04" + bytes(100), "GGUF")
    for version in (0, 1, 4, 2**31):
        refused(tmp_path, whole[0][:4] + struct.pack("<I", version) + whole[0][8:], "version")
    refused(tmp_path, whole[0][:4] + struct.pack(">I", 3) + whole[0][8:], "big-endian")


def test_every_length_in_the_header_may_lie(whole, tmp_path):
    """Each 8 bytes of the header in turn are made a huge number, which turns lengths, offsets and dims to lies."""
    data, start = whole
    path = tmp_path / "m.gguf"
    for at in range(24, start - 8, 3):
        for value in (2**64 - 1, 2**62, 2**33):
            survived(path, data[:at] + struct.pack("<Q", value) + data[at + 8 :])


def test_random_bytes_changed(whole, tmp_path):
    data, start = whole
    chance, path = random.Random(11), tmp_path / "m.gguf"
    for _ in range(600):
        changed = bytearray(data)
        for _ in range(chance.randint(1, 8)):
            changed[chance.randrange(start)] = chance.randrange(256)
        survived(path, changed)


def test_lies_cost_no_memory(whole, tmp_path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for at in (8, 16, 24):
        data = bytearray(whole[0])
        data[at : at + 8] = struct.pack("<Q", 2**35)
        refused(tmp_path, data)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024  # KiB


def header(*pairs: bytes, tensors: bytes = b"", count: int = 0) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, count, len(pairs)) + b"".join(pairs) + tensors


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def test_arrays_in_arrays_without_end(tmp_path):
    nest = b"".join(struct.pack("<IQ", 9, 1) for _ in range(5000))
    refused(tmp_path, header(text(b"k") + struct.pack("<I", 9) + nest), "nested too deep")


def test_keys_that_come_twice_or_are_not_text(tmp_path):
    pair = text(b"k") + struct.pack("<IB", 0, 1)
    refused(tmp_path, header(pair, pair), "twice")
    refused(tmp_path, header(text(b"\xff\xfe") + struct.pack("<IB", 0, 1)), "UTF-8")
    refused(tmp_path, header(text(b"k") + struct.pack("<I", 77)), "type", "77")


def entry(name: bytes, dims: tuple[int, ...], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


@pytest.mark.parametrize("table, word", [
    (entry(b"w", (64,), 99, 0), "99"),
    (entry(b"w", (33,), 8, 0), "multiple of 32"),
    (entry(b"w", (0, 4), 0, 0), "shape"),
    (entry(b"w", (2**40, 2**40), 0, 0), "beyond"),
    (entry(b"w", (2**63, 2), 0, 0), "beyond"),
    (entry(b"w", (4,), 0, 2**62), "offset"),
    (entry(b"w", (4,), 0, 3), "offset"),
    (entry(b"w", (4,), 0, 64), "offset"),
    (entry(b"w", (1, 1, 1, 1, 1), 0, 0), "dimensions"),
])
def test_tensors_that_cannot_be(tmp_path, table, word):
    refused(tmp_path, header(tensors=table, count=1) + bytes(4096), word)


def test_tensors_that_share_bytes(tmp_path):
    table = entry(b"v", (64,), 0, 0) + entry(b"w", (64,), 0, 0)
    refused(tmp_path, header(tensors=table, count=2) + bytes(4096), "w", "offset", "256")


def test_a_name_twice_and_an_alignment_that_is_none(tmp_path):
    refused(tmp_path, header(tensors=entry(b"w", (4,), 0, 0) * 2, count=2) + bytes(4096), "twice")
    for value in (0, 3, 2**31):
        pair = text(b"general.alignment") + struct.pack("<II", 4, value)
        refused(tmp_path, header(pair) + bytes(64), "alignment")


def test_weights_that_are_not_numbers_still_load(whole, tmp_path):
    """A scale may be inf or NaN after damage: it is carried over as it is, in silence from numpy too."""
    data, start = bytearray(whole[0]), whole[1]
    data[start : start + 3400] = b"\xff" * 3400
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    weights = used(path)
    assert not np.isfinite(np.array(weights["model.embed_tokens.scales"])).all() or len(weights) > 10


def test_heads_that_do_not_divide_the_rows(tmp_path):
    metadata, tensors = llama()
    tensors["blk.0.attn_q.weight"] = tensors["blk.0.attn_q.weight"][:60]
    path = write(tmp_path / "bad.gguf", "llama", {**metadata, **tokenizer()}, tensors)
    with pytest.raises(WeightError, match=r"attn_q\.weight.*heads"):
        open_gguf(path).load_weights()
