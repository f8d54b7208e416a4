"""The type registries: rows, registered creators, other packages' entry points, and what is said of unknown types."""

import subprocess
import sys
import threading
from importlib.metadata import EntryPoint
from types import SimpleNamespace

import mlx.core as mx
import mlx.nn as nn
import pytest

from mlxlm.architecture import Architecture
from mlxlm.cache import State
from mlxlm.data import data_file, data_folder, read_toml
from mlxlm.errors import ConfigError, UnknownModelType
from mlxlm.registry import LLMTypeRegistry, VLMTypeRegistry

TINY = {"model_type": "llama", "hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 32, "vocab_size": 11,
        "num_attention_heads": 2}
ROWS = read_toml(data_file("llm.toml"))["types"]


class Echo(nn.Module):
    """The least that keeps the contract: logits that repeat the tokens."""

    def __init__(self, config):
        super().__init__()
        self.vocab, self.layers = config["vocab_size"], []

    def make_cache(self, max_kv_size=None, left_padding=None):
        return State([], left_padding)

    def __call__(self, tokens, cache=None):
        return mx.eye(self.vocab)[tokens]


@pytest.fixture
def registry():
    return LLMTypeRegistry()


@pytest.mark.parametrize("model_type", sorted(ROWS))
def test_every_row_has_an_architecture(registry, model_type):
    assert isinstance(registry.architecture(model_type), Architecture)


def test_the_types_of_the_first_issue_are_native(registry):
    native = {entry.model_type for entry in registry.entries() if entry.kind == "native"}
    assert native >= {"llama", "mistral", "smollm3", "qwen2", "qwen3", "qwen3_moe", "gemma2", "gemma3",
                      "gemma3_text", "glm4_moe", "deepseek_v3", "kimi_k2", "nemotron_h", "gpt_oss"}


def test_create_builds_from_a_config_in_either_dialect(registry):
    for rope in ({"rope_theta": 5000.0}, {"rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}}):
        model = registry.create({**TINY, **rope})
        assert model.model_type == "llama" and model.config.rope()["rope_theta"] == 5000.0
        assert model(mx.array([[1, 2, 3]])).shape == (1, 3, 11)


def test_a_registered_creator_comes_before_a_row_and_goes_again(registry):
    assert not registry.contains("custom_model")
    registry.register("custom_model", Echo)
    registry.register("llama", Echo)
    assert registry.contains("custom_model") and "custom_model" in registry.list()
    assert isinstance(registry.create({**TINY, "model_type": "custom_model"}), Echo)
    assert isinstance(registry.create(TINY), Echo)
    assert {e.kind for e in registry.entries() if e.model_type in ("llama", "custom_model")} == {"registered"}
    registry.unregister("llama")
    registry.unregister("custom_model")
    registry.unregister("custom_model")
    assert not isinstance(registry.create(TINY), Echo) and not registry.contains("custom_model")


def test_an_architecture_can_be_registered(registry):
    registry.register("my_llama", registry.architecture("llama"))
    model = registry.create({**TINY, "model_type": "my_llama"})
    assert model.model_type == "my_llama" and len(model.layers) == 1


def test_registries_do_not_share_what_was_registered(registry):
    registry.register("custom_model", Echo)
    assert not LLMTypeRegistry.shared.contains("custom_model")
    assert not VLMTypeRegistry.shared.contains("custom_model")


@pytest.mark.parametrize("creator", [None, 3, "llama"])
def test_what_cannot_build_is_refused(registry, creator):
    with pytest.raises(ConfigError, match="can't build"):
        registry.register("custom_model", creator)


@pytest.mark.parametrize("name", ["", None, 3])
def test_a_type_needs_a_name(registry, name):
    with pytest.raises(ConfigError):
        registry.register(name, Echo)


def test_a_module_that_breaks_the_contract_is_told_so(registry):
    registry.register("custom_model", lambda config: nn.Linear(2, 2))
    with pytest.raises(ConfigError, match="make_cache"):
        registry.create({"model_type": "custom_model"})


@pytest.mark.parametrize("typo, close", [("lama", "llama"), ("qwen-3", "qwen3"), ("gemma3text", "gemma3_text"),
                                         ("Llama", "llama"), ("deepseekv3", "deepseek_v3")])
def test_an_unknown_type_names_the_closest(registry, typo, close):
    with pytest.raises(UnknownModelType, match=f"Did you mean.*'{close}'"):
        registry.architecture(typo)


@pytest.mark.parametrize("path", ["../llama", "llama.Model", "os", "..", "cache", "base", "", "a" * 5000, "mlx_lm"])
def test_a_type_is_a_name_and_never_a_path(registry, path):
    assert not registry.contains(path)
    with pytest.raises(UnknownModelType):
        registry.architecture(path)


@pytest.mark.parametrize("config", [{}, {"model_type": None}, {"model_type": 3}, {"model_type": ["llama"]}, [], None,
                                    "llama", {"model_type": ""}])
def test_a_config_without_a_type(registry, config):
    with pytest.raises(ConfigError):
        registry.create(config)


@pytest.mark.parametrize("model_type", [None, 3, ["llama"], {}])
def test_what_is_no_name_is_no_type(registry, model_type):
    assert not registry.contains(model_type)


def _offer(registry, monkeypatch, **points):
    found = {name: EntryPoint(name, value, "mlxlm.models") for name, value in points.items()}
    monkeypatch.setattr(registry, "_entry_points", found)


def test_another_package_adds_types_by_an_entry_point(registry, monkeypatch):
    module = SimpleNamespace(ARCHITECTURE=registry.architecture("llama"), build=Echo, broken=3)
    monkeypatch.setitem(sys.modules, "their_models", module)
    _offer(registry, monkeypatch, theirs="their_models:ARCHITECTURE", echo="their_models:build",
           llama="their_models:build")
    assert len(registry.create({**TINY, "model_type": "theirs"}).layers) == 1
    assert isinstance(registry.create({**TINY, "model_type": "echo"}), Echo)
    kinds = {entry.model_type: entry.kind for entry in registry.entries()}
    assert kinds["theirs"] == "entry point" and kinds["llama"] == "native"


@pytest.mark.parametrize("value", ["no_such_package_here:x", "json:no_such_name"])
def test_an_entry_point_that_does_not_load_says_whose_it_is(registry, monkeypatch, value):
    _offer(registry, monkeypatch, theirs=value)
    with pytest.raises(ConfigError, match="entry point"):
        registry.architecture("theirs")


def test_an_installed_package_is_found_by_its_metadata(tmp_path):
    info = tmp_path / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[mlxlm.models]\ntheirs = their_models:build\n")
    (tmp_path / "their_models.py").write_text("def build(config):\n    return 'never called'\n")
    code = ("import sys; sys.path.insert(0, sys.argv[1]); from mlxlm.registry import LLMTypeRegistry as R;"
            "print(R.shared.contains('theirs'), 'their_models' in sys.modules,"
            " R.shared.architecture('theirs').build.__module__)")
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True,
                          cwd=data_folder("registries").parent)
    assert done.stdout.split() == ["True", "False", "their_models"], done.stderr


def test_asking_imports_nothing_heavy():
    code = ("import sys; import mlxlm.registry, mlxlm.configuration, mlxlm.sources as s;"
            "R = mlxlm.registry.LLMTypeRegistry.shared; R.list(); R.contains('llama'); R.contains('stablelm');"
            "mlxlm.registry.VLMTypeRegistry.shared.list(); mlxlm.registry.LLMRegistry.models;"
            "s.configured('smolLM2_135M');"
            "print([m for m in sys.modules if m.split('.')[0] in"
            " ('mlx', 'mlx_lm', 'mlx_vlm', 'transformers', 'torch', 'huggingface_hub', 'numpy', 'tokenizers')])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          cwd=data_folder("registries").parent)
    assert done.stdout.strip() == "[]", done.stderr


def test_many_threads_register_ask_and_build(registry):
    errors = []

    def work(i):
        try:
            registry.register(f"type_{i}", Echo)
            assert registry.contains(f"type_{i}") and f"type_{i}" in registry.list()
            registry.create({**TINY, "model_type": f"type_{i}"})
            registry.architecture("qwen2")
            registry.unregister(f"type_{i}")
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert not any(name.startswith("type_") for name in registry.list())


def test_data_files_are_found_and_missing_ones_named(tmp_path):
    assert data_file("vlm.toml").is_file()
    with pytest.raises(ConfigError, match=r"nothing\.toml"):
        data_file("nothing.toml")
    (tmp_path / "bad.toml").write_text("[types\n")
    with pytest.raises(ConfigError, match=r"bad\.toml.*line 1"):
        read_toml(tmp_path / "bad.toml")
