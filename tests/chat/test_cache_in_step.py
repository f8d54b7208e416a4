"""The cache of a conversation against reading it all anew: the same answers for every kind of layer, little read."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import tiny
from mlx.utils import tree_map
from worlds import CHATML, Actor, Ledger, make_tokenizer

import mlxlm
from mlxlm.cache import KVCache, SlidingCache, State
from mlxlm.chat import ChatSession
from mlxlm.chat.memory import Memory, common_prefix
from mlxlm.errors import MLXLMError
from mlxlm.generate import stream_generate
from mlxlm.generate.prefix_store import PrefixStore
from mlxlm.text.tokenizer import Tokenizer

STRIPPING = CHATML.replace("(m.content or '')", "(m.content[:4] if m.role == 'assistant' else m.content)")
"""A template that writes an answer other than it was said, as those do that leave earlier thoughts out."""


HYBRIDS = {
    "lfm2": {"model_type": "lfm2", "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
             "num_key_value_heads": 2, "max_position_embeddings": 4096, "norm_eps": 1e-5, "conv_bias": False,
             "conv_L_cache": 3, "block_dim": 64, "block_ff_dim": 128, "block_multiple_of": 16,
             "block_ffn_dim_multiplier": 1.0, "block_auto_adjust_ff_dim": False, "full_attn_idxs": [1, 3],
             "rope_theta": 10000.0, "tie_embedding": True},
    "mamba2": {"model_type": "mamba2", "hidden_size": 64, "num_hidden_layers": 2, "num_heads": 8, "head_dim": 16,
               "state_size": 16, "expand": 2, "conv_kernel": 4, "n_groups": 1, "use_conv_bias": True, "use_bias": False,
               "layer_norm_epsilon": 1e-5, "tie_word_embeddings": False, "time_step_rank": 4, "chunk_size": 16,
               "rms_norm": True},
}


def hybrid(kind: str):
    """A tiny random model with recurrent layers, beside attention or alone."""
    with tempfile.TemporaryDirectory() as folder:
        size = tiny.tokenizer(Path(folder))
        processor = Tokenizer.from_folder(folder)
    model = mlxlm.LLMTypeRegistry.shared.create({"vocab_size": size, **HYBRIDS[kind]})
    mx.random.seed(3)
    model.update(tree_map(lambda w: mx.random.normal(w.shape) * 0.2 if w.ndim > 1 else mx.random.uniform(
        0.5, 1.5, w.shape), model.parameters()))
    mx.eval(model.parameters())
    return model, processor


@cache
def loaded(kind: str):
    """A tiny random model with full attention, a sliding window, recurrent layers, or caches that can't go back."""
    if kind in HYBRIDS:
        return hybrid(kind)
    with tempfile.TemporaryDirectory() as folder:
        path = tiny.checkpoint(Path(folder) / "m", max_position_embeddings=4096)
        model, processor = mlxlm.load(path)
    if kind == "llama":
        return model, processor
    if kind == "sliding":
        model.make_cache = lambda max_kv_size=None: State([SlidingCache(24), KVCache()])
    else:
        inner = model.make_cache

        class Rigid(KVCache):
            """Keys and values that can't be taken back: as a recurrent layer's state in this."""

            def can_trim(self, n):
                return n == 0

            def checkpoint(self, ahead=None):
                return self.copy()

            def rewind(self, checkpoint, n):
                self.__dict__.update(checkpoint.copy().__dict__)

        model.make_cache = lambda max_kv_size=None: State([Rigid() for _ in inner()])
    return model, processor


def session(kind, template=None, **options):
    model, processor = loaded(kind)
    if template is not None:
        processor.chat_template = template
    return ChatSession(model, processor, max_tokens=12, **options)


def anew(chat, **options) -> str:
    """The answer to the conversation without its last message, by a cache of its own."""
    messages = chat.messages[:-1]
    stream = stream_generate(chat.model, chat.processor, messages, max_tokens=12, **options)
    return "".join(piece.text for piece in stream)


@pytest.mark.parametrize("kind", ["llama", "sliding", "rigid", *HYBRIDS])
@pytest.mark.parametrize("template", [tiny.TEMPLATE, STRIPPING])
def test_answers_are_those_of_the_whole_conversation_read_anew(kind, template):
    chat = session(kind, template, instructions="Be brief, be kind, and never lie to anybody at all.")
    reused = []
    for question in ("Hello there", "Why is the sky blue?", "And at night?"):
        reply = chat.respond(question)
        assert reply == anew(chat)
        reused.append((reply.stats.cached_tokens, reply.stats.prompt_tokens))
    assert reused[0][0] == 0 and all(cached > 0 for cached, _ in reused[1:])
    assert all(total == len(ids) for total, ids in zip(map(sum, reused), prompts(chat), strict=True))
    assert chat.retry() == anew(chat)
    assert chat.edit("What about the sea?") == anew(chat)
    chat.undo()
    chat.undo()
    assert chat.respond("Something else") == anew(chat)


def prompts(chat):
    said = chat.messages
    ends = [at for at, message in enumerate(said) if message["role"] == "user"]
    return [chat.processor.apply_chat_template(said[:at + 1]) for at in ends]


def test_only_what_is_new_is_read():
    tokenizer = make_tokenizer()
    model = Actor(tokenizer, ["One.", "Two.", "Three."])
    chat = ChatSession(model, tokenizer, instructions="Be brief.")
    for question in ("A", "B"):
        chat.respond(question)
    before = len(model.read)
    reply = chat.respond("C")
    new = tokenizer.encode("\n<|im_start|>user\nC<|im_end|>\n<|im_start|>assistant\nThree.")
    assert len(model.read) - before == len(new) + 1  # and the EOS, which the last answer ended with unread
    assert reply.stats.cached_tokens + reply.stats.prompt_tokens == len(prompts(chat)[-1])


def test_a_layer_that_cannot_go_back_goes_on_from_a_copy():
    tokenizer = make_tokenizer(STRIPPING)
    model = Actor(tokenizer, ["A long answer.", "Another.", "Third."], trims=False)
    chat = ChatSession(model, tokenizer)
    chat.respond("A")
    asked = len(prompts(chat)[0])
    assert [one.length for one in chat.memory.snapshots] == [asked - 1]
    before = len(model.read)
    reply = chat.respond("B")
    assert reply == "Another." and reply.stats.cached_tokens == asked - 1
    assert len(model.read) - before < len(prompts(chat)[1])


def test_copies_are_bounded_and_only_made_where_they_are_needed():
    for trims, counts in ((True, [0, 0, 0, 0]), (False, [1, 2, 2, 2])):
        tokenizer = make_tokenizer()
        chat = ChatSession(Actor(tokenizer, ["A."], trims=trims), tokenizer, snapshots=2)
        found = []
        for question in "abcd":
            chat.respond(question)
            found.append(len(chat.memory.snapshots))
        assert found == counts
    none = ChatSession(Actor(tokenizer, ["A."], trims=False), tokenizer, snapshots=0)
    none.respond("a")
    assert none.respond("b") == "A." and none.memory.snapshots == []


class Theirs(Ledger):
    """A layer's cache as other packages make it: in a plain list, and with other names."""

    def is_trimmable(self):
        return self.trims

    def empty(self):
        return not self.ids


class Foreign(Actor):
    def make_cache(self, max_kv_size=None):
        return [Theirs(self.trims)]

    def __call__(self, tokens, cache):
        own = State([cache[0]])
        return super().__call__(tokens, own)


@pytest.mark.parametrize("trims", [True, False])
def test_caches_of_other_packages(trims):
    tokenizer = make_tokenizer(STRIPPING)
    model = Foreign(tokenizer, ["A long answer.", "Another.", "Third."], trims=trims)
    chat = ChatSession(model, tokenizer)
    chat.respond("A")
    before = len(model.read)
    reply = chat.respond("B")
    assert reply == "Another." and reply.stats.cached_tokens >= len(prompts(chat)[0]) - 1
    assert len(model.read) - before < len(prompts(chat)[1]) and chat.memory.keys == chat.memory.cache[0].ids
    assert chat.retry() == "Another."


def test_copies_are_bounded_in_bytes():
    memory = Memory(most=9, most_bytes=2500)
    rigid = Ledger(trims=False)
    rigid.ids = [5] * 250  # 1000 bytes of int32
    for length in (1, 2, 3):
        memory.snapshot(State([rigid]), length)
    assert [one.length for one in memory.snapshots] == [2, 3] and memory.nbytes == 2000


def test_what_changes_at_the_beginning_starts_anew():
    chat = session("llama", tiny.TEMPLATE, instructions="Be brief.")
    chat.respond("Hello")
    chat.instructions = "Answer in verse, and at length, please."
    reply = chat.respond("Hello again")
    assert reply == anew(chat) and reply.stats.cached_tokens < 20


def test_a_failed_step_throws_the_cache_away():
    chat = session("llama", tiny.TEMPLATE)
    chat.respond("Hello")
    layer = chat.model.layers[1]
    good, calls = type(layer).__call__, []

    def bad(self, *arguments, **more):
        calls.append(1)
        if len(calls) > 4:
            raise ValueError("in the middle of a step")
        return good(self, *arguments, **more)

    try:
        type(layer).__call__ = bad
        with pytest.raises(ValueError, match="middle"):
            chat.respond("And now?")
    finally:
        type(layer).__call__ = good
    assert chat.memory.cache is None
    reply = chat.respond("And now?")
    assert reply == anew(chat) and reply.stats.cached_tokens == 0


def test_a_reading_that_is_stopped_leaves_a_cache_that_is_true():
    chat = session("llama", tiny.TEMPLATE, prefill_step_size=8)
    seen = []
    chat.respond("Hello, this is a longer question.", cancel=lambda: seen.append(1) or len(seen) > 3)
    held = chat.memory.keys
    assert len(held) == chat.memory.cache.offset and chat.messages == []
    reply = chat.respond("Hello, this is a longer question.")
    assert 0 < reply.stats.cached_tokens <= len(held) and reply == anew(chat)


def test_progress_is_told_as_ever():
    told = []
    chat = session("rigid", tiny.TEMPLATE, prompt_progress_callback=lambda done, total: told.append((done, total)))
    reply = chat.respond("Hello")
    assert told[-1] == (reply.stats.prompt_tokens,) * 2


def test_the_common_part():
    assert common_prefix([1, 2, 3], [1, 2, 4, 5]) == 2 and common_prefix([], [1]) == 0
    assert common_prefix([1, 2], np.array([1, 2, 3])) == 2


def test_sessions_share_what_they_begin_with():
    store = PrefixStore()
    model, processor = loaded("llama")
    processor.chat_template = tiny.TEMPLATE
    instructions = "Be brief, and always answer in the language in which you were asked."
    first = ChatSession(model, processor, instructions=instructions, prefix_store=store, max_tokens=4)
    first.respond("Hello")
    second = ChatSession(model, processor, instructions=instructions, prefix_store=store, max_tokens=4)
    reply = second.respond("Good evening")
    alone = ChatSession(model, processor, instructions=instructions, max_tokens=4).respond("Good evening")
    assert reply == alone and reply.stats.cached_tokens >= len(instructions) and alone.stats.cached_tokens == 0


@pytest.mark.parametrize("kind", ["llama", "sliding", *HYBRIDS])
def test_the_cache_is_saved_beside_the_conversation(kind, tmp_path):
    chat = session(kind, tiny.TEMPLATE, instructions="Be brief.")
    chat.respond("Hello")
    chat.save(tmp_path / "chat.json", cache=True)
    again = ChatSession.load(tmp_path / "chat.json", chat.model, chat.processor, max_tokens=12)
    reply = again.respond("And now?")
    other = chat.respond("And now?")
    assert reply == other  # checkpoints aren't saved, so that recurrent layers may have to read again
    assert kind in HYBRIDS or reply.stats.cached_tokens == other.stats.cached_tokens > 0
    (tmp_path / "chat.safetensors").write_bytes(b"damaged")
    with pytest.raises(MLXLMError):
        ChatSession.load(tmp_path / "chat.json", chat.model, chat.processor)
