"""ModelConfiguration: every field's check, and every rule by which a checkpoint's files merge into it."""

import json
from pathlib import Path

import pytest

from mlxlm.configuration import (
    BudgetTransition,
    ModelConfiguration,
    ReasoningConfig,
    TemplateFlag,
    merge_generation_config,
)
from mlxlm.errors import ConfigError

HERE = ModelConfiguration(id="owner/model")


def test_defaults_are_those_of_the_reference():
    assert (HERE.revision, HERE.default_prompt, HERE.weight_file_selection) == ("main", "", "automatic")
    assert HERE.extra_eos_tokens == HERE.eos_token_ids == frozenset()
    assert HERE.stop_strings is None and HERE.tool_call_format is None and HERE.reasoning is None
    assert HERE.tokenizer_id is None and HERE.override_tokenizer is None and HERE.message_generator is None


def test_a_name_is_the_id_or_the_last_two_parts_of_a_directory(tmp_path):
    assert HERE.name == "owner/model"
    assert ModelConfiguration(directory=Path("/models/Qwen/Qwen3-4B")).name == "Qwen/Qwen3-4B"
    assert ModelConfiguration(directory=Path("/models")).name == "models"
    assert ModelConfiguration(directory="/x/y/z.gguf").name == "y/z.gguf"


def test_the_tokenizer_comes_from_the_model_unless_said_otherwise():
    assert HERE.tokenizer_source == ("owner/model", "main")
    assert ModelConfiguration(directory="/a/b").tokenizer_source == (Path("/a/b"), None)
    other = HERE.replace(tokenizer_id="owner/other", tokenizer_revision="v2")
    assert other.tokenizer_source == ("owner/other", "v2")


def test_stop_strings_fall_back_to_the_extra_tokens_and_an_empty_set_stops_that():
    base = HERE.replace(extra_eos_tokens=["<|end|>"])
    assert base.effective_stop_strings == {"<|end|>"}
    assert base.replace(stop_strings=[]).effective_stop_strings == frozenset()
    assert base.replace(stop_strings=["Q:"]).effective_stop_strings == {"Q:"}


@pytest.mark.parametrize("config, generation, expected", [
    ({"eos_token_id": 2}, None, {2}),
    ({"eos_token_id": [2, 3]}, None, {2, 3}),
    ({"text_config": {"eos_token_id": [7]}}, None, {7}),
    ({"eos_token_id": None, "text_config": {"eos_token_id": 7}}, None, {7}),
    ({"eos_token_id": 2, "text_config": {"eos_token_id": 7}}, None, {2}),
    ({"eos_token_id": 2}, {"eos_token_id": 5}, {5}),
    ({"eos_token_id": 2}, {"eos_token_id": [5, 6]}, {5, 6}),
    ({"eos_token_id": 2}, {"temperature": 0.6}, {2}),
    ({"eos_token_id": 2}, {"eos_token_id": None}, {2}),
    ({"text_config": None}, None, set()),
    ({}, {}, set()),
])
def test_eos_ids_root_before_nested_and_generation_config_replaces(config, generation, expected):
    assert merge_generation_config(HERE, config, generation).eos_token_ids == expected


def test_ids_of_the_configuration_itself_are_kept():
    own = HERE.replace(eos_token_ids=[9])
    assert merge_generation_config(own, {"eos_token_id": 2}, {"eos_token_id": 5}).eos_token_ids == {5, 9}


def test_stop_strings_of_generation_config_join_the_effective_ones():
    base = HERE.replace(extra_eos_tokens=["<|end|>"])
    assert merge_generation_config(base, {}, {"stop_strings": "A", "stop": ["B"]}).stop_strings == {"<|end|>", "A", "B"}
    assert merge_generation_config(base, {}, {"stop_strings": []}).stop_strings is None
    empty = base.replace(stop_strings=[])
    assert merge_generation_config(empty, {}, {"stop": "B"}).effective_stop_strings == {"B"}


def test_no_sampling_setting_is_read():
    settings = {"temperature": 0.1, "top_p": 0.2, "top_k": 3, "do_sample": True}
    assert merge_generation_config(HERE, {}, settings) == HERE


@pytest.mark.parametrize("bad", [[], "text", 3, {"eos_token_id": "2"}, {"eos_token_id": [True]}, {"stop": 3},
                                 {"stop_strings": [1]}, {"eos_token_id": {}}, {"eos_token_id": [-1]}])
def test_a_bad_generation_config_is_left_out_with_a_warning(bad):
    with pytest.warns(UserWarning, match="ignored"):
        assert merge_generation_config(HERE, {"eos_token_id": 2}, bad).eos_token_ids == {2}


@pytest.mark.parametrize("bad", ["2", [None], True, {"a": 1}, 2.5, [2, "3"], -1])
def test_a_bad_eos_id_in_config_json_is_an_error(bad):
    with pytest.raises(ConfigError, match="eos_token_id"):
        merge_generation_config(HERE, {"eos_token_id": bad})


@pytest.mark.parametrize("fields, word", [
    ({}, "neither"),
    ({"id": "a/b", "directory": "/x"}, "both"),
    ({"id": ""}, "id"),
    ({"id": 3}, "id"),
    ({"id": "a/b", "revision": None}, "revision"),
    ({"id": "a/b", "revision": ""}, "revision"),
    ({"id": "a/b", "directory": 3}, "directory"),
    ({"id": "a/b", "extra_eos_tokens": "<|end|>"}, "extra_eos_tokens"),
    ({"id": "a/b", "extra_eos_tokens": [3]}, "extra_eos_tokens"),
    ({"id": "a/b", "extra_eos_tokens": [""]}, "extra_eos_tokens"),
    ({"id": "a/b", "stop_strings": 5}, "stop_strings"),
    ({"id": "a/b", "stop_strings": {"a": 1}}, "stop_strings"),
    ({"id": "a/b", "eos_token_ids": ["2"]}, "eos_token_ids"),
    ({"id": "a/b", "eos_token_ids": None}, "eos_token_ids"),
    ({"id": "a/b", "default_prompt": None}, "default_prompt"),
    ({"id": "a/b", "tool_call_format": 1}, "tool_call_format"),
    ({"id": "a/b", "tokenizer_id": ""}, "tokenizer_id"),
    ({"id": "a/b", "weight_file_selection": "all"}, "weight_file_selection"),
    ({"id": "a/b", "mirrors": "pypi:x"}, "mirrors"),
    ({"id": "a/b", "reasoning": "think"}, "reasoning"),
    ({"id": "a/b", "reasoning": {"start_delimiter": "<think>"}}, "end_delimiter"),
    ({"id": "a/b", "reasoning": {"start_delimiter": "<t>", "end_delimiter": ""}}, "end_delimiter"),
    ({"id": "a/b", "reasoning": {"start_delimiter": "<t>", "end_delimiter": "</t>", "prompt_strategy": "on"}}, "on"),
])
def test_a_wrong_value_is_named(fields, word):
    with pytest.raises(ConfigError, match=word):
        ModelConfiguration.from_dict(fields)


@pytest.mark.parametrize("key, close", [("extra_eos_token", "extra_eos_tokens"), ("extraEOSTokens", "extra_eos_tokens"),
                                        ("defaultPrompt", "default_prompt"), ("toolCallFormat", "tool_call_format"),
                                        ("tokenizerId", "tokenizer_id"), ("Revision", "revision")])
def test_an_unknown_key_names_the_closest_field(key, close):
    with pytest.raises(ConfigError, match=f"Did you mean {close}"):
        ModelConfiguration.from_dict({"id": "a/b", key: "x"})
    with pytest.raises(ConfigError, match=f"Did you mean {close}"):
        HERE.replace(**{key: "x"})


REASONING = {"start_delimiter": "<think>", "end_delimiter": "</think>", "implicit_end_delimiters": ["<tool_call>"],
             "prompt_strategy": {"key": "enable_thinking"}, "budget_transition": {"before": "So.\n", "after": "\n\n"}}


def test_json_toml_dict_and_keywords_agree(tmp_path):
    fields = {"id": "a/b", "extra_eos_tokens": ["<|end|>"], "eos_token_ids": [1, 2], "reasoning": REASONING}
    made = ModelConfiguration(
        id="a/b", extra_eos_tokens={"<|end|>"}, eos_token_ids=(2, 1),
        reasoning=ReasoningConfig("<think>", "</think>", TemplateFlag("enable_thinking"), False, ("<tool_call>",),
                                  BudgetTransition("So.\n", "\n\n")))
    toml = ('id = "a/b"\nextra_eos_tokens = ["<|end|>"]\neos_token_ids = [1, 2]\n[reasoning]\n'
            'start_delimiter = "<think>"\nend_delimiter = "</think>"\nimplicit_end_delimiters = ["<tool_call>"]\n'
            'prompt_strategy = { key = "enable_thinking" }\n'
            'budget_transition = { before = "So.\\n", after = "\\n\\n" }\n')
    (tmp_path / "c.json").write_text(json.dumps(fields))
    (tmp_path / "c.toml").write_text(toml)
    assert ModelConfiguration.from_dict(fields) == made
    assert ModelConfiguration.from_json(json.dumps(fields)) == made
    assert ModelConfiguration.from_json(tmp_path / "c.json") == made
    assert ModelConfiguration.from_json(str(tmp_path / "c.json")) == made
    assert ModelConfiguration.from_toml(toml) == made
    assert ModelConfiguration.from_toml(tmp_path / "c.toml") == made
    assert hash(made) == hash(ModelConfiguration.from_dict(fields))


def test_a_directory_in_a_file_is_relative_to_the_file(tmp_path):
    (tmp_path / "c.toml").write_text('directory = "models/x"')
    assert ModelConfiguration.from_toml(tmp_path / "c.toml").directory == tmp_path / "models" / "x"


@pytest.mark.parametrize("text", ["", "[1, 2]", '{"id": ', "[" * 100_000, '"text"', "nonsense.json"])
def test_text_that_is_no_configuration(text):
    with pytest.raises(ConfigError):
        ModelConfiguration.from_json(text)


def test_toml_that_does_not_parse_says_where():
    with pytest.raises(ConfigError, match="line 2"):
        ModelConfiguration.from_toml('id = "a/b"\nrevision = \nname = 3')


def test_replace_moves_between_hub_and_disk():
    assert HERE.replace(directory="/x/y").id is None
    assert ModelConfiguration(directory="/x/y").replace(id="a/b").directory is None


def test_reasoning_is_switched_by_the_templates_flag_or_not_at_all():
    flag = ReasoningConfig("<think>", "</think>", TemplateFlag("enable_thinking"))
    assert flag.template_arguments(False) == {"enable_thinking": False}
    for strategy in ("always_on", "none"):
        fixed = ReasoningConfig("<think>", "</think>", strategy)
        assert fixed.template_arguments(True) == {}
        with pytest.raises(ConfigError, match="can't be switched off"):
            fixed.template_arguments(False)
