"""Models borrowed from mlx-lm: the same numbers as its own modules give, under our contract of a model."""

from importlib import import_module

import mlx.core as mx
import pytest

from mlxlm import fallback
from mlxlm.errors import ConfigError, GenerationError, UnknownModelType
from mlxlm.registry import LLMTypeRegistry, VLMTypeRegistry

BASE = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
STABLELM = {**BASE, "model_type": "stablelm", "num_key_value_heads": 2, "rope_theta": 5000.0, "use_qkv_bias": True,
            "partial_rotary_factor": 0.25, "layer_norm_eps": 1e-5}
MAMBA = {"model_type": "other_mamba", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "state_size": 8,
         "num_hidden_layers": 2, "conv_kernel": 4, "use_bias": False, "use_conv_bias": True, "time_step_rank": 4}
COHERE2 = {**BASE, "model_type": "cohere2", "num_key_value_heads": 2, "head_dim": 8, "rope_theta": 5000.0,
           "layer_norm_eps": 1e-5, "logit_scale": 0.5, "attention_bias": False, "layer_norm_bias": False,
           "sliding_window": 4, "sliding_window_pattern": 2}
CONFIGS = {"stablelm": STABLELM, "mamba": MAMBA, "cohere2": COHERE2}
TOKENS = mx.array([[3, 1, 4, 1, 5, 9, 2, 6]])


def borrowing():
    """A registry without rows of its own, so that every type is a borrowed one."""
    registry = LLMTypeRegistry()
    registry._tables = {"types": {}, "fallback": {"other_mamba": "mamba", "of_nobody": "nothing"}}
    return registry


def pair(name, **changes):
    """Ours and mlx-lm's own module, with the same weights."""
    config = {**CONFIGS[name], **changes}
    mx.random.seed(0)
    ours = borrowing().create(config)
    code = import_module(f"mlx_lm.models.{name}")
    theirs = code.Model(code.ModelArgs.from_dict(config))
    theirs.update(ours.parameters())
    return ours, theirs


def close(a, b):
    return mx.allclose(a, b, rtol=1e-4, atol=1e-5).item()


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_are_mlx_lms_in_one_pass_in_chunks_and_by_step(name):
    ours, theirs = pair(name)
    expected = theirs(TOKENS)
    assert mx.std(expected).item() > 0
    assert close(ours(TOKENS), expected)
    for sizes in ((8,), (3, 5), (1,) * 8):
        cache, at, rows = ours.make_cache(), 0, []
        for size in sizes:
            rows.append(ours(TOKENS[:, at:at + size], cache=cache))
            at += size
            assert cache.offset == at
        assert close(mx.concatenate(rows, axis=1), expected)
        assert cache.nbytes > 0 and cache.arrays and len(cache) == len(ours.layers) == 2


def test_the_contract_of_a_model_holds():
    ours, _ = pair("stablelm")
    assert ours.model_type == "stablelm" and ours.config.hidden_size == 32
    cache = ours.make_cache()
    first = ours(TOKENS[:, :5], cache=cache)
    kept = cache.copy()
    assert cache.can_trim(2) and not cache.can_trim(6) and cache.trim(2) == 2 and cache.offset == 3
    again = ours(TOKENS[:, 3:5], cache=cache)
    assert close(again, first[:, 3:]) and kept.offset == 5
    assert close(ours(TOKENS[:, 5:], cache=kept), ours(TOKENS)[:, 5:])


def test_a_recurrent_state_cannot_be_trimmed():
    ours, _ = pair("mamba")
    cache = ours.make_cache()
    ours(TOKENS, cache=cache)
    assert not cache.can_trim(1) and cache.trim(1) == 0 and cache.offset == 8


@pytest.mark.parametrize("name", ["stablelm", "cohere2"])
def test_a_left_padded_batch_gives_what_the_rows_give_alone(name):
    ours, _ = pair(name)
    batch = mx.array([[0, 0, 0, 7, 8, 9], [1, 2, 3, 4, 5, 6]])
    cache = ours.make_cache(left_padding=[3, 0])
    logits = ours(batch, cache=cache)
    assert close(logits[0, 3:], ours(batch[:1, 3:])[0]) and close(logits[1], ours(batch[1:])[0])
    step = ours(mx.array([[10], [11]]), cache=cache)
    assert close(step[0, 0], ours(mx.array([[7, 8, 9, 10]]))[0, -1])


def test_a_cache_that_cannot_be_padded_says_so():
    ours, _ = pair("stablelm")
    with pytest.raises(GenerationError, match="one by one"):
        ours.make_cache(max_kv_size=8, left_padding=[1, 0])


def test_a_bounded_cache_stays_bounded():
    ours, _ = pair("stablelm")
    cache = ours.make_cache(max_kv_size=8)
    for i in range(20):
        ours(mx.array([[i]]), cache=cache)
    assert cache.offset == 20 and all(layer.keys.shape[2] <= 8 for layer in cache)


@pytest.mark.parametrize("rope", [
    {"rope_type": "default", "rope_theta": 5000.0, "partial_rotary_factor": 0.25},
    {"full_attention": {"rope_type": "default", "rope_theta": 5000.0, "partial_rotary_factor": 0.25}},
])
def test_newer_rope_settings_reach_a_module_that_knows_only_older_ones(rope):
    config = {k: v for k, v in STABLELM.items() if k not in ("rope_theta", "partial_rotary_factor")}
    made = borrowing().create({**config, "rope_parameters": rope})
    assert made.config.rope_theta == 5000.0 and made.config.partial_rotary_factor == 0.25


def test_rope_scaling_keeps_both_spellings_of_its_kind():
    older = fallback._older_rope({"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}, set(), "m")
    assert older["rope_theta"] == 1e4
    assert older["rope_scaling"] == {"rope_type": "linear", "type": "linear", "factor": 2.0, "rope_theta": 1e4}
    both = {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}
    assert fallback._older_rope(both, {"rope_local_base_freq"}, "m") == {"rope_theta": 1e6, "rope_local_base_freq": 1e4}
    with pytest.raises(ConfigError, match="layer type"):
        fallback._older_rope(both, set(), "m")


def test_a_key_that_the_module_would_drop_is_told():
    with pytest.warns(UserWarning, match="sliding_window"):
        borrowing().create({**STABLELM, "sliding_window": 4})


def test_a_config_that_does_not_fit_is_a_config_error():
    with pytest.raises(ConfigError, match="mlx-lm can't build a 'stablelm'"):
        borrowing().create({"model_type": "stablelm", "hidden_size": 32})


def test_types_are_read_off_the_installed_package_and_flagged():
    kinds = {entry.model_type: entry for entry in borrowing().entries()}
    assert {entry.kind for entry in kinds.values()} == {"fallback"} and "of_nobody" not in kinds
    assert kinds["other_mamba"].module == "mlx_lm.models.mamba"
    own = {entry.model_type: entry.kind for entry in LLMTypeRegistry().entries()}
    assert own["llama"] == "native" and own.keys() >= kinds.keys() - {"other_mamba"}
    assert not {"cache", "base", "switch_layers", "rope_utils", "ssm"} & set(kinds)


def test_every_borrowed_module_offers_what_a_model_needs():
    for name, module in LLMTypeRegistry.borrowed.modules().items():
        if name == "olmo":
            continue  # ends the program where its own dependency is missing; see below
        code = import_module(module)
        assert hasattr(code, "Model") and hasattr(code, "ModelArgs"), module


def test_a_module_that_ends_the_program_on_import_is_a_config_error(capsys):
    registry = borrowing()
    with pytest.raises(ConfigError, match="olmo"):
        registry.create({**BASE, "model_type": "olmo"})


def test_without_the_package_its_types_are_unknown_and_the_message_says_what_to_install():
    registry = borrowing()
    registry.borrowed = fallback.Fallback("a_package_that_is_not_here", "a-package")  # type: ignore[misc]
    assert registry.list() == [] and LLMTypeRegistry().contains("llama")
    with pytest.raises(UnknownModelType, match="Install a-package"):
        registry.architecture("stablelm")


VISION = '''
class ModelConfig:
    def __init__(self, vocab_size, text_config=None):
        self.vocab_size = vocab_size

    @classmethod
    def from_dict(cls, params):
        return cls(params["vocab_size"])

class LanguageModel: ...
'''


def test_a_vision_package_is_read_the_same_way(tmp_path, monkeypatch):
    package = tmp_path / "pretend_vlm"
    for name in ("seer", "helper"):
        (package / "models" / name).mkdir(parents=True)
        (package / "models" / name / "__init__.py").write_text(VISION if name == "seer" else "x = 1\n")
    (package / "models" / "base.py").write_text("y = 2\n")
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(fallback._OFFERS, "pretend_vlm", fallback._OFFERS["mlx_vlm"])
    registry = VLMTypeRegistry()
    registry.borrowed = fallback.Fallback("pretend_vlm", "pretend-vlm")  # type: ignore[misc]
    assert registry.contains("seer") and not registry.contains("helper") and not registry.contains("base")
    assert [e.kind for e in registry.entries() if e.model_type == "seer"] == ["fallback"]
