"""How large inputs are: against the layers worked out by hand, in the memory of one weight, and what it is good for."""

import json
import subprocess
import sys

import mlx.core as mx
import numpy as np
import pytest
import tiny

from mlxlm import load, load_model
from mlxlm.convert import Recipe, Setting, convert
from mlxlm.convert.importance import TOKENS, importance
from mlxlm.convert.measure import WINDOW, quality, sample_text, windows
from mlxlm.errors import UsageError


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """A tiny model a few inputs of whose layers are far larger than the rest, as those of large models are."""
    folder = tiny.checkpoint(tmp_path_factory.mktemp("uneven") / "m", num_hidden_layers=2)
    weights = mx.load(str(folder / "model.safetensors"))
    for name, w in weights.items():
        if "layernorm" in name:
            weights[name] = mx.where(mx.arange(w.size) % 24 == 5, 30.0, 1.0).astype(w.dtype)
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "pt"})
    return folder


def test_it_is_the_mean_square_of_what_each_layer_is_fed(uneven):
    (model, tokenizer), fresh = load(uneven), load_model(uneven)
    found = importance(model, fresh, tokenizer)
    assert set(found) == {path for path, m in fresh.named_modules() if hasattr(m, "to_quantized")
                          and "embed" not in path}
    rows = [fed for fed, _ in windows(tokenizer, sample_text("calibrate"), TOKENS)]
    assert all(row.shape == (1, WINDOW) for row in rows)
    fed = mx.concatenate(rows)
    norm = np.array(fresh.layers[0].input_layernorm.weight).astype(np.float64)
    x = np.array(fresh.model.embed_tokens(fed)).astype(np.float64)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + fresh.layers[0].input_layernorm.eps) * norm
    for name in ("q_proj", "k_proj", "v_proj"):
        got = np.array(found[f"model.layers.0.self_attn.{name}"])
        np.testing.assert_allclose(got, (x**2).mean((0, 1)), rtol=1e-3)


def test_weights_are_let_go_of(uneven):
    (model, tokenizer), fresh = load(uneven), load_model(uneven)
    importance(model, fresh, tokenizer)
    own, unread = model.layers[1].mlp.down_proj.weight, fresh.layers[1].mlp.down_proj.weight
    assert own is unread or (own == unread).all().item()
    with pytest.raises(UsageError, match="no layers"):
        importance(fresh.layers[0], fresh.layers[0], tokenizer)


@pytest.mark.parametrize("bits", [3, 4])
def test_a_calibrated_conversion_is_nearer_to_its_source(uneven, tmp_path, bits):
    source, tokenizer = load(uneven)
    found = {}
    for name, how in {"plain": {"fit": False}, "blind": {"calibrate": False}, "calibrated": {}}.items():
        convert(uneven, tmp_path / name, recipe=Recipe(Setting(bits), "uniform", **how))
        found[name] = quality(load_model(tmp_path / name), tokenizer, source, most_tokens=768).divergence
    assert found["calibrated"] < 0.9 * min(found["blind"], found["plain"])


def test_a_model_without_a_tokenizer_is_fitted_all_the_same(uneven, tmp_path):
    from shutil import copytree

    bare = copytree(uneven, tmp_path / "m")
    for path in bare.glob("*token*"):
        path.unlink()
    convert(bare, tmp_path / "q", recipe=Recipe(Setting(4), "uniform"))
    convert(uneven, tmp_path / "blind", recipe=Recipe(Setting(4), "uniform", calibrate=False))
    a, b = (mx.load(str(tmp_path / name / "model.safetensors")) for name in ("q", "blind"))
    assert all((a[name] == b[name]).all().item() for name in b)
    assert "calibrate" not in json.loads((tmp_path / "q" / "config.json").read_text())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
def test_the_memory_is_that_of_one_weight(tmp_path):
    """12 layers more, of 16 MB each, are read in under 80 MB more."""
    program = ("import re, sys\nfrom mlxlm.checkpoint import open_checkpoint\nfrom pathlib import Path\n"
               "from mlxlm.load import assemble\nfrom mlxlm.convert.importance import importance\n"
               "from mlxlm.text.tokenizer import Tokenizer\n"
               "source = open_checkpoint(Path(sys.argv[1]))\n"
               "importance(assemble(source), assemble(source), Tokenizer.from_folder(Path(sys.argv[1])))\n"
               "print(int(re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())[1]) * 1024)")
    peaks = []
    for layers in (1, 13):
        source = tiny.checkpoint(tmp_path / str(layers), num_hidden_layers=1, hidden_size=512,
                                 intermediate_size=2048, head_dim=128)
        tiny.deepened(source, layers)
        done = subprocess.run([sys.executable, "-c", program, str(source)], text=True, check=True, capture_output=True)
        peaks.append(int(done.stdout))
    size = sum(path.stat().st_size for path in source.glob("*.safetensors"))
    assert size > 1.9e8 and peaks[1] - peaks[0] < 8e7, (size, peaks)
