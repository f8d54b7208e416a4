"""Fewer experts a token: the same numbers as transformers with its setting changed, and what is known about quality."""

import json
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
import tiny
from parity import reference
from parity.cases import CASES

from mlxlm import experts
from mlxlm.errors import UsageError
from mlxlm.load import load, load_model
from mlxlm.registry import LLMTypeRegistry

MIXTURES = {
    "qwen3_moe-normalised": "num_experts_per_tok", "mixtral-plain": "num_experts_per_tok",
    "olmoe-plain": "num_experts_per_tok", "deepseek_v3-no-groups": "num_experts_per_tok",
    "glm4_moe-no-groups": "num_experts_per_tok", "gpt_oss-yarn": "num_experts_per_tok",
    "ernie4_5_moe-steered": "moe_k", "qwen3_next-delta-moe": "num_experts_per_tok",
    "lfm2_moe-biased-choice": "num_experts_per_tok", "granitemoehybrid-experts": "num_experts_per_tok",
    "gemma4_text-experts-keys-as-values": "top_k_experts",
}


@pytest.mark.parametrize("name", MIXTURES)
def test_logits_are_transformers_with_as_many_experts(name, tmp_path):
    case = next(c for c in CASES if c.name == name)
    folder = reference.save(reference.build(case), tmp_path / "model")
    ids = reference.tokens(case)
    usual = np.array(load_model(folder)(mx.array(ids)))
    for count in (1, 3):
        changed = replace(case, config={**case.config, MIXTURES[name]: count})
        expected = reference.logits(reference.build(changed), ids)
        found = np.array(load_model(folder, experts_per_token=count)(mx.array(ids)))
        assert np.abs(found - expected).max() <= 1e-4 * expected.std()
        asked = json.loads((folder / "config.json").read_text()).get(MIXTURES[name])
        assert asked == count or np.abs(found - usual).max() > 1e-3


def test_a_dense_model_has_none_to_choose_from(tmp_path):
    with pytest.raises(UsageError, match="no experts"):
        load(tiny.checkpoint(tmp_path / "model"), experts_per_token=2)


@pytest.mark.parametrize("count", [0, -1, 9, 2.0, True, "2"])
def test_counts_that_cannot_be(count):
    raw = {"model_type": "qwen3_moe", "num_experts": 8, "num_experts_per_tok": 4}
    with pytest.raises(UsageError, match=r"number of experts.*1 to 8"):
        experts.override(raw, count, LLMTypeRegistry.shared.architecture("qwen3_moe"))


FAMILIES = [
    ({"model_type": "qwen3_moe", "hidden_size": 2048, "num_hidden_layers": 48}, "Qwen3-Coder-30B-A3B-Instruct-4bit", 4),
    ({"model_type": "qwen3_moe", "hidden_size": 4096, "num_hidden_layers": 94}, "Qwen3-235B-A22B", 4),
    ({"model_type": "qwen3_moe", "hidden_size": 6144, "num_hidden_layers": 62}, "", 3),
    ({"model_type": "qwen3_next", "hidden_size": 2048, "num_hidden_layers": 48}, "", 3),
    ({"model_type": "qwen3_vl_moe", "text_config": {"hidden_size": 2048, "num_experts_per_tok": 8}}, "", 4),
]


@pytest.mark.parametrize("raw, name, floor", FAMILIES, ids=[row[0]["model_type"] + row[1] for row in FAMILIES])
def test_a_warning_below_the_floor_of_a_known_family(raw, name, floor, recwarn):
    architecture = LLMTypeRegistry.shared.architecture("qwen3_moe")
    changed = experts.override(raw, floor, architecture, name=name)
    assert not recwarn.list
    assert changed.get("text_config", changed)["num_experts_per_tok"] == floor
    with pytest.warns(UserWarning, match="loses quality"):
        experts.override(raw, floor - 1, architecture, name=name)


def test_a_model_that_differs_by_its_name_alone_is_not_warned_of(recwarn):
    raw = {"model_type": "qwen3_moe", "hidden_size": 2048, "num_hidden_layers": 48}
    experts.override(raw, 1, LLMTypeRegistry.shared.architecture("qwen3_moe"), name="Qwen3-30B-A3B")
    assert not recwarn.list
