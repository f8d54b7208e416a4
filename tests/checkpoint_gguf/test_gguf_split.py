"""Split GGUF files: every part opens the whole, and what is missing or swapped is named."""

import shutil

import mlx.core as mx
import numpy as np
import pytest
from gguf_made import llama, tokenizer, write

from mlxlm.checkpoint import Checkpoint, open_checkpoint
from mlxlm.checkpoint.gguf import open_gguf
from mlxlm.errors import MLXLMError, SourceError, WeightError
from mlxlm.load import load_model

COUNT = 3


@pytest.fixture
def parts(tmp_path):
    """(paths of the parts, logits of the same model in one file)"""
    metadata, tensors = llama(layers=2)
    metadata |= tokenizer()
    model = load_model(write(tmp_path / "whole.gguf", "llama", metadata, tensors))
    names, paths = list(tensors), []
    for i in range(COUNT):
        numbers = {"split.no": i, "split.count": COUNT, "split.tensors.count": len(names)}
        own = {**metadata, **numbers} if i == 0 else numbers
        path = tmp_path / f"m-{i + 1:05}-of-{COUNT:05}.gguf"
        paths.append(write(path, "llama" if i == 0 else None, own, {n: tensors[n] for n in names[i::COUNT]}))
    return paths, model(mx.arange(8)[None], cache=model.make_cache())


def test_any_part_opens_the_whole(parts):
    paths, wanted = parts
    model = load_model(paths[0])
    np.testing.assert_array_equal(np.array(model(mx.arange(8)[None], cache=model.make_cache())), np.array(wanted))
    assert isinstance(open_checkpoint(paths[0]), Checkpoint)
    for path in paths[1:]:
        assert open_gguf(path).config == open_gguf(paths[0]).config
        assert open_gguf(path).load_weights().keys() == open_gguf(paths[0]).load_weights().keys()


def test_missing_parts_are_named(parts):
    paths, _ = parts
    paths[1].unlink()
    with pytest.raises(SourceError, match=paths[1].name):
        open_gguf(paths[0])


def test_a_part_in_anothers_place(parts):
    paths, _ = parts
    shutil.copy(paths[2], paths[1])
    with pytest.raises(WeightError, match=r"split\.no 2.*expected 1"):
        open_gguf(paths[0])


def test_a_part_under_another_name(parts):
    paths, _ = parts
    with pytest.raises(SourceError, match="-00001-of-00003"):
        open_gguf(paths[0].rename(paths[0].with_name("renamed.gguf")))


def test_parts_with_the_same_tensors_or_too_few(parts, tmp_path):
    paths, _ = parts
    numbers = {"split.no": 1, "split.count": COUNT, "split.tensors.count": 20}
    write(paths[1], None, numbers, {"token_embd.weight": np.ones((32, 64), np.float32)})
    with pytest.raises(WeightError, match=r"two parts.*token_embd\.weight"):
        open_gguf(paths[0])
    write(paths[1], None, numbers, {"extra": np.ones(4, np.float32)})
    with pytest.raises(MLXLMError, match="don't hold all tensors"):
        open_gguf(paths[0])
