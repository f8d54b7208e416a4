"""Conversion as a whole: what goes in comes out, what is interrupted goes on, and nothing is ever half there."""

import json
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest
import tiny

from mlxlm import load, load_model
from mlxlm.convert import Recipe, Setting, convert
from mlxlm.convert.recipes import BITS, GROUP_SIZES
from mlxlm.errors import MLXLMError, SourceError, UsageError

TOKENS = mx.array([[1, 5, 9, 40, 3, 77, 12, 8]])
KINDS = [(mode, bits, group) for mode in BITS for bits in BITS[mode] for group in GROUP_SIZES[mode] if group < 128]


def logits(folder):
    return np.array(load_model(folder)(TOKENS).astype(mx.float32))


def test_without_a_recipe_the_weights_are_the_same_bits(model, tmp_path):
    done = convert(model, tmp_path / "out")
    assert (logits(tmp_path / "out") == logits(model)).all()
    assert done.bits_per_weight == 32
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"config.json", "model.safetensors", "model.safetensors.index.json", "tokenizer.json",
                     "tokenizer_config.json"}
    before, after = (load(folder)[1].encode("Hello, wörld") for folder in (model, tmp_path / "out"))
    assert before == after


@pytest.mark.parametrize(("mode", "bits", "group"), KINDS)
def test_every_mode_gives_what_its_dequantized_weights_give(model, tmp_path, mode, bits, group):
    convert(model, tmp_path / "q", recipe=Recipe(Setting(bits, group, mode)))
    config = json.loads((tmp_path / "q" / "config.json").read_text())
    assert config["quantization"] == config["quantization_config"]
    convert(tmp_path / "q", tmp_path / "plain", dequantized=True)
    assert "quantization" not in json.loads((tmp_path / "plain" / "config.json").read_text())
    a, b = logits(tmp_path / "q"), logits(tmp_path / "plain")
    assert np.abs(a - b).max() <= 1e-4 * (b.max() - b.min())


def test_mlx_lm_loads_it_to_the_same(model, tmp_path):
    from pathlib import Path

    from mlx_lm.utils import load_model as theirs

    convert(model, tmp_path / "q", recipe=Recipe(Setting(4, 32)))
    other, _ = theirs(Path(tmp_path / "q"))
    a, b = logits(tmp_path / "q"), np.array(other(TOKENS))
    assert np.abs(a - b).max() <= 2e-4 * (b.max() - b.min())


def test_the_mixed_recipe_spends_bits_where_they_matter(tmp_path):
    source = tiny.checkpoint(tmp_path / "m", num_hidden_layers=16)
    done = convert(source, tmp_path / "q", recipe=Recipe(Setting(4, 32)))
    bits = {path: setting.bits for path, setting in done.settings.items()}
    assert bits["model.embed_tokens"] == bits["lm_head"] == 5
    assert [bits[f"model.layers.{i}.mlp.down_proj"] for i in (0, 1, 2, 13, 14, 15)] == [5, 5, 4, 4, 5, 5]
    assert bits["model.layers.7.self_attn.v_proj"] == 6 and bits["model.layers.3.self_attn.q_proj"] == 4
    uniform = convert(source, tmp_path / "u", recipe=Recipe(Setting(4, 32), "uniform"))
    assert {s.bits for s in uniform.settings.values()} == {4}
    assert uniform.bits_per_weight < done.bits_per_weight


def test_overrides_by_pattern_win_and_the_last_of_them_most(model, tmp_path):
    overrides = {"*.v_proj": Setting(8, 32), "lm_head": None, "model.layers.0.*.v_proj": Setting(3, 32)}
    done = convert(model, tmp_path / "q", recipe=Recipe(Setting(4, 32), overrides=overrides))
    assert done.settings["model.layers.1.self_attn.v_proj"].bits == 8
    assert done.settings["model.layers.0.self_attn.v_proj"].bits == 3
    assert "lm_head" not in done.settings
    assert np.isfinite(logits(tmp_path / "q")).all()


def test_quantized_again_and_cast(model, tmp_path):
    convert(model, tmp_path / "q8", recipe=Recipe(Setting(8, 32), "uniform"))
    convert(tmp_path / "q8", tmp_path / "q4", recipe=Recipe(Setting(4, 32), "uniform"), dtype="bfloat16")
    loaded = load_model(tmp_path / "q4")
    layer = loaded.layers[0].self_attn.q_proj
    assert (layer.bits, layer.scales.dtype) == (4, mx.bfloat16)
    assert json.loads((tmp_path / "q4" / "config.json").read_text())["torch_dtype"] == "bfloat16"


def test_shards_and_their_index(model, tmp_path):
    convert(model, tmp_path / "out", max_shard_bytes=60_000)
    files = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert len(files) > 2 and files[0] == f"model-00001-of-{len(files):05}.safetensors"
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == set(files) and index["metadata"]["total_size"] > 0
    assert (logits(tmp_path / "out") == logits(model)).all()


def test_an_interrupted_conversion_goes_on_and_trusts_nothing(model, tmp_path):
    seen = []

    def stop_halfway(done, total):
        seen.append(done)
        if done > total / 2:
            raise KeyboardInterrupt

    out, hidden = tmp_path / "out", tmp_path / ".out.converting"
    with pytest.raises(KeyboardInterrupt):
        convert(model, out, max_shard_bytes=60_000, progress=stop_halfway)
    assert not out.exists()
    whole = sorted(hidden.glob("model-*.safetensors"))
    assert len(whole) >= 2
    kept, damaged = whole[0].stat().st_mtime_ns, whole[1]
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    convert(model, out, max_shard_bytes=60_000)
    assert (out / whole[0].name).stat().st_mtime_ns == kept and not hidden.exists()
    assert (logits(out) == logits(model)).all()


def test_another_plan_starts_anew(model, tmp_path):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(model, tmp_path / "out", progress=stop)
    convert(model, tmp_path / "out", recipe=Recipe(Setting(8, 32)))
    assert load_model(tmp_path / "out").layers[0].mlp.up_proj.bits == 8


def test_a_killed_conversion_leaves_nothing_that_looks_whole(tmp_path):
    source = tiny.checkpoint(tmp_path / "m", num_hidden_layers=24, hidden_size=256, intermediate_size=1024)
    program = ("import sys, time\nfrom mlxlm.convert import convert\n"
               "convert(sys.argv[1], sys.argv[2], max_shard_bytes=2_000_000, progress=lambda d, t: time.sleep(0.02))")
    out = tmp_path / "out"
    process = subprocess.Popen([sys.executable, "-c", program, str(source), str(out)])
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".out.converting/model-00002*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.raises(UsageError, match="another process is converting"):
        convert(source, out, max_shard_bytes=2_000_000)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not out.exists()
    with pytest.raises(MLXLMError):
        load_model(tmp_path / ".out.converting")
    convert(source, out, max_shard_bytes=2_000_000)
    assert (logits(out) == logits(source)).all()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
def test_memory_is_bounded_by_the_largest_tensor(tmp_path):
    """700 MB of weights whose largest tensor has 17 MB: the whole process stays under 200 MB."""
    source = tiny.checkpoint(tmp_path / "m", num_hidden_layers=1, hidden_size=1024, intermediate_size=4096,
                             head_dim=256)
    tiny.deepened(source, 11)
    program = ("import re, sys\nfrom mlxlm.convert import convert, Recipe, Setting\n"
               "convert(sys.argv[1], sys.argv[2], recipe=Recipe(Setting(8), fit=False), max_shard_bytes=10**9)\n"
               "print(int(re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())[1]) * 1024)")
    size = sum(path.stat().st_size for path in source.glob("*.safetensors"))
    done = subprocess.run([sys.executable, "-c", program, str(source), str(tmp_path / "q")], text=True, check=True,
                          capture_output=True)
    assert size > 6e8 and int(done.stdout) < 2e8, (size, done.stdout)


PEAK = """
import resource, sys
from mlxlm.convert import convert, Recipe, Setting
recipe = Recipe(Setting(8), "uniform", fit=False) if sys.argv[4] == "quantized" else None
for source, out in (sys.argv[1].split(","), sys.argv[2:4]):
    convert(source, out, recipe=recipe)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
"""


@pytest.mark.parametrize("kind", ["quantized", "plain"])
def test_experts_kept_one_by_one_never_stand_in_memory_twice(kind, model, tmp_path):
    """At most half as much again as a layer's experts of one projection, together, beside what a tiny model takes."""
    assert_bounded(*_sparse_experts(tmp_path / "m", experts=64, hidden=1024, inner=1280), kind, model, tmp_path)


@pytest.mark.parametrize("kind", ["quantized", "plain"])
def test_experts_stored_the_other_way_round_are_turned_a_part_at_a_time(kind, model, tmp_path):
    """As above, for gpt-oss, whose gates and ups are one tensor for all experts."""
    assert_bounded(*_turned_experts(tmp_path / "m", experts=64, hidden=1024, inner=640), kind, model, tmp_path)


def assert_bounded(source, group, kind, model, tmp_path):
    arguments = (f"{model},{tmp_path / 'one'}", source, tmp_path / "two", kind)
    done = subprocess.run([sys.executable, "-c", PEAK, *map(str, arguments)], text=True, check=True,
                          capture_output=True)
    before, peak = map(int, done.stdout.split())
    assert peak - before < 1.5 * group, f"{(peak - before) / group:.2f} of {group}"


def _sparse_experts(folder, experts, hidden, inner):
    """(a mixture of experts of one layer whose weights are holes in a file, bytes of one projection's experts)."""
    config = {"model_type": "qwen3_moe", "moe_intermediate_size": inner, "num_experts": experts, "norm_topk_prob": True,
              "decoder_sparse_step": 1, "mlp_only_layers": [], "attention_bias": False, "tie_word_embeddings": True}
    at = "model.layers.0"
    shapes = {f"{at}.self_attn.q_norm.weight": (64,), f"{at}.self_attn.k_norm.weight": (64,),
              f"{at}.mlp.gate.weight": (experts, hidden),
              **{f"{at}.mlp.experts.{e}.{p}_proj.weight": (inner, hidden) if p != "down" else (hidden, inner)
                 for e in range(experts) for p in ("gate", "up", "down")}}
    return _sparse(folder, config, shapes, hidden, inner), experts * hidden * inner * 2


def _turned_experts(folder, experts, hidden, inner):
    """(a mixture of one layer whose experts are stored (experts, in, out), bytes of its largest tensor)."""
    config = {"model_type": "gpt_oss", "num_local_experts": experts, "sliding_window": 64, "attention_bias": True,
              "layer_types": ["full_attention"], "tie_word_embeddings": False}
    at = "model.layers.0"
    shapes = {"lm_head.weight": (64, hidden), f"{at}.self_attn.sinks": (4,), f"{at}.self_attn.o_proj.bias": (hidden,),
              **{f"{at}.self_attn.{p}_proj.bias": (256,) for p in "qkv"},
              f"{at}.mlp.router.weight": (experts, hidden), f"{at}.mlp.router.bias": (experts,),
              f"{at}.mlp.experts.gate_up_proj": (experts, hidden, 2 * inner),
              f"{at}.mlp.experts.gate_up_proj_bias": (experts, 2 * inner),
              f"{at}.mlp.experts.down_proj": (experts, inner, hidden),
              f"{at}.mlp.experts.down_proj_bias": (experts, hidden)}
    return _sparse(folder, config, shapes, hidden, inner), experts * hidden * 2 * inner * 2


def _sparse(folder, config, shapes, hidden, inner):
    """A checkpoint of one layer, of ``config`` and ``shapes`` beside what every decoder has."""
    config |= {"hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": 1, "num_attention_heads": 4,
               "num_key_value_heads": 4, "head_dim": 64, "vocab_size": 64, "rms_norm_eps": 1e-6, "rope_theta": 1e4,
               "max_position_embeddings": 64, "num_experts_per_tok": 2, "hidden_act": "silu"}
    at = "model.layers.0"
    shapes |= {"model.embed_tokens.weight": (64, hidden), "model.norm.weight": (hidden,),
               f"{at}.input_layernorm.weight": (hidden,), f"{at}.post_attention_layernorm.weight": (hidden,),
               f"{at}.self_attn.o_proj.weight": (hidden, 256),
               **{f"{at}.self_attn.{p}_proj.weight": (256, hidden) for p in "qkv"}}
    header, end = {}, 0
    for name, shape in shapes.items():
        size = int(np.prod(shape)) * 2
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    text = json.dumps(header).encode()
    with open(folder / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return folder


@pytest.mark.parametrize("inside", [".", "sub", "sub/deeper"])
def test_it_never_writes_into_its_source(model, inside):
    before = sorted(path.name for path in model.iterdir())
    with pytest.raises(UsageError, match="into its source"):
        convert(model, model / inside)
    assert sorted(path.name for path in model.iterdir()) == before


def test_a_full_folder_and_a_full_disk_are_refused(model, tmp_path, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(UsageError, match="something already"):
        convert(model, tmp_path / "full")
    import mlxlm.convert.run as run

    monkeypatch.setattr(run.shutil, "disk_usage", lambda path: SimpleNamespace(free=9))
    with pytest.raises(SourceError, match="no room"):
        convert(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("arguments", "said"), [
    (("--q-bits", "4"), "Add -q"), (("-q", "--q-bits", "7"), "no such bits"),
    (("-q", "--q-mode", "nf4"), "unknown mode"),
    (("-q", "--q-mode", "mxfp4", "--q-group-size", "64"), "no such group size"), (("-q", "-d"), "choose one"),
    (("-q", "--recipe", "magic"), "unknown recipe"), (("-q", "--override", "x"), "not an override"),
    (("-q", "--override", "x=4:7"), "no such group size")])
def test_wrong_use_of_the_command(mlxlm, model, tmp_path, arguments, said):
    status, _, err = mlxlm("convert", model, "-o", tmp_path / "out", *arguments)
    assert status == 2 and said in err and not (tmp_path / "out").exists()


def test_the_command_writes_a_card_with_measured_figures(mlxlm, model, tmp_path):
    status, out, err = mlxlm("convert", model, "-o", tmp_path / "out", "-q", "--q-group-size", "32", "--measure",
                             "--json")
    assert status == 0, err
    said = json.loads(out)
    assert said["quality"]["divergence"] > 0 and 4 < said["bits_per_weight"] < 8
    card = (tmp_path / "out" / "README.md").read_text()
    assert "library_name: mlx" in card and f"{said['quality']['perplexity']:.4f}" in card and "mixed, 4 bits" in card


@pytest.mark.parametrize(("seconds", "said"), [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (754, "12 min 34 s"),
                                               (3600, "1 h 0 min"), (90061, "25 h 1 min")])
def test_durations(seconds, said):
    from mlxlm.cli.convert import duration

    assert duration(seconds) == said


def test_progress_tells_bytes_and_the_time_left_by_the_pace_of_late(monkeypatch, capsys):
    import mlxlm.cli.convert as cli

    times = [100.0]
    monkeypatch.setattr(cli.time, "monotonic", lambda: times[-1])
    with pytest.raises(KeyboardInterrupt), cli._Progress(quiet=False) as bar:
        for at, done in ((101, 60), (110, 60), (150, 70), (160, 80)):  # most of it lay there from before
            times.append(at)
            bar(done * 10**6, 100 * 10**6)
        raise KeyboardInterrupt
    lines = capsys.readouterr().err.split("\r")
    assert "60 MB of 100 MB, 1 s left" in lines[1] and "80 MB of 100 MB, 20 s left" in lines[4]
    assert "the same command goes on" in lines[-1]
