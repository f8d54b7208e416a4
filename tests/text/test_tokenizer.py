"""Folders, parts, templates and mistakes: what Tokenizer does beside agreeing with transformers on ids."""

import json
import subprocess
import sys

import pytest
from made import kind
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models

from mlxlm.checkpoint.parts import TokenizerParts
from mlxlm.errors import MLXLMError, TemplateError, TokenizerError
from mlxlm.text.tokenizer import Tokenizer

CHAT = [{"role": "user", "content": "Hi"}]
NEST = "[" * 100_000 + "]" * 100_000


def folder(path, name="gpt2", config=None, **files):
    kind(name).save(str(path / "tokenizer.json"))
    if config is not None:
        (path / "tokenizer_config.json").write_text(json.dumps(config))
    for file, content in files.items():
        target = path / file.replace("__", "/").replace("_DOT_", ".")
        target.parent.mkdir(exist_ok=True)
        target.write_text(content)
    return path


# Chat templates: where they are looked for


def rendered(path, **options):
    tokenizer = Tokenizer.from_folder(path)
    assert tokenizer.has_chat_template
    return tokenizer.apply_chat_template(CHAT, tokenize=False, **options)


def test_template_as_text(tmp_path):
    assert rendered(folder(tmp_path, config={"chat_template": "a{{ eos_token }}", "eos_token": "the"})) == "athe"


def test_named_templates(tmp_path):
    named = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools {{ tools|length }}"},
             {"name": "rag", "template": "{{ documents[0].text }}"}]
    path = folder(tmp_path, config={"chat_template": named})
    assert rendered(path) == "plain"
    assert rendered(path, tools=[{"name": "f"}]) == "tools 1"
    assert rendered(path, chat_template="rag", documents=[{"text": "d"}]) == "d"
    assert rendered(path, chat_template="own {{ messages[0].role }}") == "own user"


def test_named_templates_without_default(tmp_path):
    tokenizer = Tokenizer.from_folder(folder(tmp_path, config={"chat_template": [
        {"name": "a", "template": "1"}, {"name": "b", "template": "2"}]}))
    assert tokenizer.apply_chat_template(CHAT, chat_template="b", tokenize=False) == "2"
    with pytest.raises(TemplateError, match="a, b"):
        tokenizer.apply_chat_template(CHAT)


def test_template_files_stand_above_the_config(tmp_path):
    path = folder(tmp_path, config={"chat_template": "config"}, chat_template_DOT_jinja="file",
                  additional_chat_templates__tool_use_DOT_jinja="more")
    assert rendered(path) == "file"
    assert rendered(path, tools=[]) == "more"
    own = Tokenizer.from_folder(path, config={"chat_template": "mine"})
    assert own.apply_chat_template(CHAT, tokenize=False) == "mine"


def test_older_template_file(tmp_path):
    path = folder(tmp_path, chat_template_DOT_json=json.dumps({"chat_template": "older"}))
    assert rendered(path) == "older"


def test_no_template(tmp_path):
    tokenizer = Tokenizer.from_folder(folder(tmp_path))
    assert not tokenizer.has_chat_template
    with pytest.raises(TemplateError, match="no chat template"):
        tokenizer.apply_chat_template(CHAT)


def test_template_errors_name_the_file(tmp_path):
    path = folder(tmp_path, config={}, chat_template_DOT_jinja="a\n{% if %}")
    with pytest.raises(TemplateError, match=r"chat_template\.jinja, line 2: .*syntax"):
        Tokenizer.from_folder(path).apply_chat_template(CHAT)
    path = folder(tmp_path, config={"chat_template": "{{ x.y }}"})
    (path / "chat_template.jinja").unlink()
    with pytest.raises(TemplateError, match=r"tokenizer_config\.json, line 1: .*'x' is undefined"):
        Tokenizer.from_folder(path).apply_chat_template(CHAT)


# EOS


def test_eos_ids_are_a_set_to_change(tmp_path):
    tokenizer = Tokenizer.from_folder(folder(tmp_path, config={"eos_token": "<|im_end|>"}))
    assert tokenizer.eos_token_ids == {tokenizer.eos_token_id}
    tokenizer.add_eos_token("<|endoftext|>")
    tokenizer.add_eos_token("7")
    tokenizer.add_eos_token(9)
    assert tokenizer.eos_token_ids == {tokenizer.eos_token_id, tokenizer.token_to_id("<|endoftext|>"), 7, 9}
    for wrong in ("no such token", "99999999", -1):
        with pytest.raises(TokenizerError, match="no such token"):
            tokenizer.add_eos_token(wrong)
    assert Tokenizer.from_folder(folder(tmp_path, config={})).eos_token_ids == set()


# Text and ids


def test_odd_texts():
    tokenizer = Tokenizer.from_parts(TokenizerParts(kind("gpt2"), eos_token="<|endoftext|>"))
    for text in ("", "\x00", "a\x00\x00b", "\ufeffx", "\u202e", "🙂" * 1000, " " * 5000, "ab c\n" * 200_000):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    with pytest.raises(TokenizerError, match="surrogate pair at character 2"):
        tokenizer.encode("ab\ud800c")
    for wrong in (None, 3, b"x", ["x"]):
        with pytest.raises(TokenizerError, match="only text"):
            tokenizer.encode(wrong)


def test_odd_ids():
    tokenizer = Tokenizer.from_parts(TokenizerParts(kind("gpt2")))
    token = tokenizer.encode("a")[0]
    assert tokenizer.decode([token, 10**6, token]) == "aa" and tokenizer.decode(token) == "a"
    assert tokenizer.decode([]) == ""
    assert tokenizer.batch_decode([[token], [token, token]]) == ["a", "aa"]
    for wrong in ([-1], [2**40], ["x"], [None], "ab", 2**70):
        with pytest.raises(TokenizerError):
            tokenizer.decode(wrong)
    with pytest.raises(AttributeError):
        _ = tokenizer.no_such_thing
    assert tokenizer.convert_ids_to_tokens(10**6) is None and tokenizer.bos_token is None


# GGUF's parts


def parts(name, **more):
    backend = Backend.from_str(kind(name).to_str())
    backend.post_processor = None  # pyright: ignore
    return TokenizerParts(backend, **more)


@pytest.mark.parametrize(("name", "flag", "added"), [
    ("llama2", None, True), ("llama2", False, False), ("llama2", True, True),
    ("gpt2", None, False), ("gpt2", True, True), ("gpt2", False, False),
])
def test_bos_of_parts(name, flag, added):
    bos = {"llama2": "<s>", "gpt2": "<|endoftext|>"}[name]
    tokenizer = Tokenizer.from_parts(parts(name, bos_token=bos, add_bos_token=flag))
    plain = tokenizer.encode("hi", add_special_tokens=False)
    assert tokenizer.encode("hi") == [tokenizer.bos_token_id] * added + plain
    assert tokenizer.encode_prompt(bos + "hi").count(tokenizer.bos_token_id) == 1


def test_ends_templates_and_eos_of_parts():
    tokenizer = Tokenizer.from_parts(parts(
        "llama2", bos_token="<s>", eos_token="</s>", add_eos_token=True, extra_eos_ids=frozenset({9}),
        chat_template={"default": "d", "tool_use": "{{ bos_token }}t"}))
    assert tokenizer.encode("")[0] == 1 and tokenizer.encode("")[-1] == 2
    assert tokenizer.eos_token_ids == {2, 9}
    assert tokenizer.apply_chat_template(CHAT, tools=[], tokenize=False) == "<s>t"
    one = Tokenizer.from_parts(parts("llama2", chat_template="{{ nothing.x }}"))
    with pytest.raises(TemplateError, match=r"tokenizer\.chat_template, line 1"):
        one.apply_chat_template(CHAT)


def test_the_caller_stands_above_the_parts():
    given = parts("llama2", bos_token="<s>", eos_token="</s>", add_bos_token=True, chat_template="own")
    config = {"eos_token": "<unk>", "add_bos_token": False, "chat_template": "mine"}
    tokenizer = Tokenizer.from_parts(given, config=config)
    assert tokenizer.eos_token_ids == {0} and tokenizer.encode("a")[0] != 1
    assert tokenizer.apply_chat_template(CHAT, tokenize=False) == "mine"


def test_parts_without_their_bos():
    with pytest.raises(TokenizerError, match="<bos>"):
        Tokenizer.from_parts(parts("llama2", bos_token="<bos>", add_bos_token=True))


# Damage


@pytest.mark.parametrize(("file", "content"), [
    ("tokenizer.json", ""), ("tokenizer.json", "{"), ("tokenizer.json", "[]"), ("tokenizer.json", "{}"),
    ("tokenizer.json", NEST), ("tokenizer.json", '{"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}}'),
    ("tokenizer.json", '{"version": "1.0", "model": {"type": "BPE", "vocab": {}, "merges": ["a b"]}}'),
    ("tokenizer_config.json", ""), ("tokenizer_config.json", "[1]"), ("tokenizer_config.json", NEST),
    ("tokenizer_config.json", '{"a": ' * 50_000), ("tokenizer_config.json", "\udcff"),
    ("tokenizer_config.json", '{"bos_token": 3}'), ("tokenizer_config.json", '{"eos_token": ["a"]}'),
    ("tokenizer_config.json", '{"eos_token": {"text": "a"}}'),
    ("tokenizer_config.json", '{"eos_token": {"content": "a", "lstrip": "yes"}}'),
    ("tokenizer_config.json", '{"added_tokens_decoder": []}'),
    ("tokenizer_config.json", '{"added_tokens_decoder": {"x": "a"}}'),
    ("tokenizer_config.json", '{"added_tokens_decoder": {"-1": "a"}}'),
    ("tokenizer_config.json", '{"added_tokens_decoder": {"1": 3}}'),
    ("tokenizer_config.json", '{"additional_special_tokens": 3}'),
    ("tokenizer_config.json", '{"additional_special_tokens": [3]}'),
    ("tokenizer_config.json", '{"chat_template": 3}'),
    ("tokenizer_config.json", '{"chat_template": [{"name": "x"}]}'),
    ("tokenizer_config.json", '{"clean_up_tokenization_spaces": "yes"}'),
    ("tokenizer_config.json", '{"tokenizer_class": 3}'),
    ("special_tokens_map.json", "{"), ("special_tokens_map.json", '{"bos_token": 3}'),
    ("added_tokens.json", '{"x": "y"}'), ("added_tokens.json", '{"x": -1}'), ("added_tokens.json", "[]"),
    ("chat_template.jinja", "\udcff\udcfe"), ("chat_template.json", "{"),
    ("chat_template.json", '{"chat_template": 3}'),
])
def test_damaged_files_are_named(tmp_path, file, content):
    path = folder(tmp_path, config={} if not file.startswith(("special", "added")) else None)
    (path / file).write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(TokenizerError, match=file.replace(".", r"\.")):
        Tokenizer.from_folder(path)


def test_a_folder_in_place_of_a_file(tmp_path):
    folder(tmp_path)
    (tmp_path / "tokenizer_config.json").mkdir()
    with pytest.raises(TokenizerError, match=r"tokenizer_config\.json"):
        Tokenizer.from_folder(tmp_path)


def test_no_tokenizer_at_all(tmp_path):
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(TokenizerError, match=r"no tokenizer\.json"):
            Tokenizer.from_folder(path)


# By way of transformers


def test_vocabulary_and_merges(tmp_path):
    source = kind("gpt2")
    source.model.save(str(tmp_path))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "GPT2Tokenizer", "chat_template": "{{ messages[0].content }}{{ eos_token }}"}))
    tokenizer = Tokenizer.from_folder(tmp_path)
    text = "Hello, world! 🙂"
    assert tokenizer.encode(text) == source.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.eos_token == "<|endoftext|>"
    assert tokenizer.apply_chat_template(CHAT, tokenize=False) == "Hi<|endoftext|>"


def test_a_class_by_name(tmp_path):
    from transformers import GPT2Tokenizer

    folder(tmp_path, "qwen2", {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>"})
    tokenizer = Tokenizer.from_folder(tmp_path, override="GPT2Tokenizer")
    theirs = GPT2Tokenizer.from_pretrained(tmp_path)
    for text in ("123 é e\u0301", "a b"):
        assert tokenizer.encode(text) == theirs.encode(text)
    assert tokenizer.eos_token_ids == {theirs.eos_token_id}
    for wrong in ("NoSuchTokenizer", "AutoModel", "os.system", "PreTrainedModel", ""):
        with pytest.raises(TokenizerError, match="override_tokenizer"):
            Tokenizer.from_folder(tmp_path, override=wrong)


def test_a_tokenizer_in_python_alone(tmp_path):
    """Canine's ids are code points: no Rust backend, so everything goes through the transformers object."""
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "ByT5Tokenizer"}')
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    tokenizer = Tokenizer.from_folder(tmp_path, override="ByT5Tokenizer")
    text = "Grüße, 你好 🙂! " * 20
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert len(ids) == len(text.encode()) and tokenizer.decode(ids) == text
    stream = tokenizer.detokenizer()
    assert "".join([stream.add_token(i) for i in ids]) + stream.finalize() == text
    assert tokenizer.eos_token_ids == {1} and tokenizer.encode("a")[-1] == 1
    assert tokenizer.convert_ids_to_tokens(10**9) is None and tokenizer.token_to_id("</s>") == 1


def test_without_transformers_the_way_out_is_named(tmp_path, monkeypatch):
    folder(tmp_path, config={})
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert Tokenizer.from_folder(tmp_path).encode("a")
    with pytest.raises(TokenizerError, match=r'pip install "mlxlm\[transformers\]"'):
        Tokenizer.from_folder(tmp_path, override="LlamaTokenizer")
    (tmp_path / "tokenizer.json").rename(tmp_path / "vocab.json")
    with pytest.raises(TokenizerError, match=r'pip install "mlxlm\[transformers\]"'):
        Tokenizer.from_folder(tmp_path)


def test_code_of_a_checkpoint_is_not_run(tmp_path):
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nclass Evil: pass\n")
    (tmp_path / "vocab.json").write_text("{}")
    (tmp_path / "merges.txt").write_text("")
    config = {"auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}, "tokenizer_class": "Evil"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil"}}))
    for more in ({}, {"trust_remote_code": True}):
        with pytest.raises(MLXLMError):
            Tokenizer.from_folder(tmp_path, config=more)
    assert not (tmp_path / "ran").exists()


# Start-up


def test_nothing_heavy_is_imported(tmp_path):
    path = folder(tmp_path, config={"chat_template": "{{ messages[0].content }}"})
    code = f"""
import sys
from mlxlm.text.tokenizer import Tokenizer

def check(*heavy):
    found = {{*heavy, "transformers", "huggingface_hub", "numpy", "torch", "mlx"}} & set(sys.modules)
    assert not found, found

tokenizer = Tokenizer.from_folder({str(path)!r})
tokenizer.decode(tokenizer.encode("a"))
tokenizer.detokenizer()
check("jinja2")
assert tokenizer.apply_chat_template([{{"role": "user", "content": "x"}}], tokenize=False) == "x"
check()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_backend_without_a_decoder_joins_with_spaces():
    backend = Backend(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    assert Tokenizer.from_parts(TokenizerParts(backend)).decode([0, 1]) == "a b"
    backend.decoder = decoders.Fuse()
    assert Tokenizer.from_parts(TokenizerParts(backend)).decode([0, 1]) == "ab"
