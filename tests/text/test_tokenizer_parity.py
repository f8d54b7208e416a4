"""Ids, texts and special tokens against transformers' AutoTokenizer on the same folders, of every kind."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made import TEXTS, kind
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from mlxlm.text.tokenizer import Tokenizer

NAMED = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")


def added(content, **flags):
    return {"__type": "AddedToken", "content": content, "lstrip": False, "normalized": False, "rstrip": False,
            "single_word": False, "special": True, **flags}


LLAMA2 = {"bos_token": added("<s>"), "eos_token": added("</s>"), "unk_token": added("<unk>")}
LLAMA3 = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>", "tokenizer_class": "PreTrainedTokenizerFast"}
GEMMA = {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"}
BERT = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]",
        "mask_token": "[MASK]", "tokenizer_class": "PreTrainedTokenizerFast"}
QWEN = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "bos_token": None, "unk_token": None,
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"]}

CASES = {
    "gpt2 bare": ("gpt2", None, {}),
    "gpt2 class": ("gpt2", {"tokenizer_class": "GPT2Tokenizer", "bos_token": "<|endoftext|>",
                            "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}, {}),
    "gpt2 defaults": ("gpt2", {"tokenizer_class": "GPT2TokenizerFast"}, {}),
    "llama3": ("llama3", LLAMA3, {}),
    "llama3 says no bos": ("llama3", LLAMA3 | {"add_bos_token": False}, {}),
    "llama3 says eos": ("llama3", LLAMA3 | {"add_eos_token": True}, {}),
    "llama3 as llama": ("llama3", LLAMA3 | {"tokenizer_class": "LlamaTokenizerFast"}, {}),
    "qwen2": ("qwen2", QWEN | {"tokenizer_class": "PreTrainedTokenizerFast"}, {}),
    "qwen2 class": ("qwen2", QWEN | {"tokenizer_class": "Qwen2Tokenizer", "add_prefix_space": False,
                                     "add_bos_token": False}, {}),
    "qwen2 defaults": ("qwen2", {"tokenizer_class": "Qwen2TokenizerFast"}, {}),
    "gpt2 with im_end": ("gpt2", {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}, {}),
    "qwen2 says bos": ("qwen2", {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>",
                                 "bos_token": "<|endoftext|>", "add_bos_token": True}, {}),
    "llama2": ("llama2", LLAMA2 | {"tokenizer_class": "LlamaTokenizer", "legacy": False}, {}),
    "llama2 fast": ("llama2", LLAMA2 | {"tokenizer_class": "PreTrainedTokenizerFast"}, {}),
    "llama2 no post-processor": ("llama2 bare", LLAMA2 | {"tokenizer_class": "PreTrainedTokenizerFast",
                                                          "add_bos_token": True}, {}),
    "llama2 no post-processor, class": ("llama2 bare", LLAMA2 | {"tokenizer_class": "LlamaTokenizer",
                                                                 "add_bos_token": True, "legacy": False}, {}),
    "llama2 defaults": ("llama2", {"tokenizer_class": "LlamaTokenizer", "legacy": False}, {}),
    "llama2 legacy": ("llama2 legacy", LLAMA2 | {"tokenizer_class": "PreTrainedTokenizerFast"}, {}),
    "llama2 map": ("llama2", {"tokenizer_class": "PreTrainedTokenizerFast"}, {"special_tokens_map.json": {
        "bos_token": {"content": "<s>", "lstrip": False, "normalized": False, "rstrip": False,
                      "single_word": False}, "eos_token": "</s>", "pad_token": "<new pad>"}}),
    "gemma": ("gemma", GEMMA | {"tokenizer_class": "GemmaTokenizer"}, {}),
    "gemma fast": ("gemma", GEMMA | {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": True,
                                     "add_eos_token": False}, {}),
    "gemma image": ("gemma", GEMMA | {"tokenizer_class": "PreTrainedTokenizerFast", "boi_token": "<boi>",
                                      "extra_special_tokens": {"image_token": "<image>"}}, {}),
    "unigram": ("unigram", {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>",
                            "unk_token": "<unk>", "pad_token": "<pad>"}, {}),
    "unigram clean up": ("unigram", {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>",
                                     "clean_up_tokenization_spaces": True}, {}),
    "word piece": ("word piece", BERT, {}),
    "word piece clean up": ("word piece", BERT | {"clean_up_tokenization_spaces": True}, {}),
    "gpt2 clean up": ("gpt2", {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>",
                               "clean_up_tokenization_spaces": True}, {}),
    "new tokens": ("gpt2", {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<eos!>",
                            "pad_token": "<pad!>", "extra_special_tokens": ["<more>", "<|im_end|>"]}, {}),
    "a token of the model": ("gpt2", {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "the"}, {}),
    "added tokens": ("gpt2", {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>",
                              "added_tokens_decoder": {
                                  "0": added("<|endoftext|>"), "424": added("<late>", special=False),
                                  "423": added("<strip>", lstrip=True, rstrip=True),
                                  "421": added("<|im_start|>", rstrip=True)}}, {}),
    "older added tokens": ("gpt2", {"tokenizer_class": "PreTrainedTokenizerFast"},
                           {"added_tokens.json": {"<lost>": 423, "<late>": 424, "<later>": 425},
                            "special_tokens_map.json": {"eos_token": "<later>"}}),
}


def folder(path, case):
    name, config, files = CASES[case]
    kind(name).save(str(path / "tokenizer.json"))
    if config is not None:
        files = {"tokenizer_config.json": config, **files}
    for file, content in files.items():
        (path / file).write_text(json.dumps(content))
    if config is None or "tokenizer_class" not in config:
        (path / "config.json").write_text(json.dumps({"model_type": "olmo2"}))
    return path


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    made = {}

    def pair(case):
        if case not in made:
            path = folder(tmp_path_factory.mktemp("tokenizer"), case)
            made[case] = (Tokenizer.from_folder(path), AutoTokenizer.from_pretrained(path))
        return made[case]

    return pair


@pytest.mark.parametrize("case", CASES)
def test_a_folder(pairs, case):
    ours, theirs = pairs(case)
    for text in [*TEXTS, "<late><lost> <strip> x <|im_start|> y<more>", "the<boi><image>"]:
        for special in (True, False):
            ids = theirs.encode(text, add_special_tokens=special)
            assert ours.encode(text, add_special_tokens=special) == ids, (text, special)
            for skip in (True, False):
                assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)
                stream = ours.detokenizer(skip_special_tokens=skip)
                pieces = [stream.add_token(i) for i in ids]
                assert "".join([*pieces, stream.finalize()]) == theirs.decode(ids, skip_special_tokens=skip)
    for name in NAMED:
        assert getattr(ours, name) == getattr(theirs, name), name
        assert getattr(ours, f"{name}_id") == getattr(theirs, f"{name}_id"), name
    assert ours.special_tokens_map == theirs.special_tokens_map
    assert ours.all_special_tokens == theirs.all_special_tokens
    assert ours.all_special_ids == theirs.all_special_ids
    assert (len(ours), ours.vocab_size) == (len(theirs), theirs.vocab_size)
    assert ours.get_vocab() == theirs.get_vocab() and ours.get_added_vocab() == theirs.get_added_vocab()
    for token in ("the", "nothing like it", "<s>"):
        assert ours.convert_tokens_to_ids(token) == theirs.convert_tokens_to_ids(token)
    ids = [0, 1, 5, len(ours) - 1, len(ours) + 9]
    assert ours.convert_ids_to_tokens(ids) == theirs.convert_ids_to_tokens(ids)
    assert ours.convert_ids_to_tokens(5) == theirs.convert_ids_to_tokens(5)


@pytest.mark.parametrize("case", ["gpt2 class", "llama3", "qwen2", "llama2", "gemma", "unigram", "word piece"])
@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=40))
def test_any_text(pairs, case, text):
    ours, theirs = pairs(case)
    ids = theirs.encode(text)
    assert ours.encode(text) == ids
    assert ours.decode(ids) == theirs.decode(ids)


@pytest.mark.parametrize(("case", "config"), [
    ("llama3", {"add_bos_token": False}), ("llama3", {"add_bos_token": True, "add_eos_token": True}),
    ("llama2 fast", {"add_eos_token": True}), ("qwen2 says bos", {"add_bos_token": True}),
    ("gemma fast", {"eos_token": "<start_of_turn>", "pad_token": "<mask>"}),
])
def test_what_the_caller_sets_stands_above_the_files(tmp_path, case, config):
    path = folder(tmp_path, case)
    ours, theirs = Tokenizer.from_folder(path, config=config), AutoTokenizer.from_pretrained(path, **config)
    for text in TEXTS:
        assert ours.encode(text) == theirs.encode(text)
    assert ours.special_tokens_map == theirs.special_tokens_map
    assert ours.eos_token_ids == {theirs.eos_token_id}


def test_chat_ids(pairs):
    ours, theirs = pairs("llama3")
    template = "{{ bos_token }}{% for m in messages %}<|eot_id|>{{ m.content }}{% endfor %}{{ add_generation_prompt }}"
    chat = [{"role": "user", "content": "Grüße 🙂"}]
    for more in ({}, {"add_generation_prompt": False}, {"continue_final_message": True}):
        ids = ours.apply_chat_template(chat, chat_template=template, **more)
        options = {"add_generation_prompt": "continue_final_message" not in more} | more
        assert ids == theirs.apply_chat_template(chat, chat_template=template, return_dict=False, **options)
        assert ids.count(ours.bos_token_id) == 1
        text = ours.apply_chat_template(chat, chat_template=template, tokenize=False, **more)
        assert ours.encode_prompt(text) == ids
    assert ours.encode_prompt("hello") == theirs.encode("hello")


@pytest.mark.parametrize(("name", "class_name"), [
    ("llama2 legacy", "LlamaTokenizer"), ("gemma", "LlamaTokenizer"), ("qwen2", "GPT2Tokenizer"),
    ("llama3", "Qwen2Tokenizer"), ("unigram", "LlamaTokenizer"), ("llama2", "GemmaTokenizer"),
])
def test_tokenizer_json_stands_above_the_class_name(tmp_path, name, class_name):
    """Some classes of transformers 5 keep the vocabulary alone and drop the file's own pipeline; we keep it all."""
    kind(name).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": class_name}))
    ours, as_written = Tokenizer.from_folder(tmp_path), PreTrainedTokenizerFast.from_pretrained(tmp_path)
    rebuilt = AutoTokenizer.from_pretrained(tmp_path)
    assert any(rebuilt.encode(text) != as_written.encode(text) for text in TEXTS)
    for text in TEXTS:
        assert ours.encode(text) == as_written.encode(text)
        assert ours.decode(ours.encode(text)) == as_written.decode(as_written.encode(text))
