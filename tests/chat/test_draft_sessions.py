"""A conversation with drafts, a shared store and penalties together says what the whole prompt read anew would."""

from __future__ import annotations

import pytest
from test_cache_in_step import HYBRIDS, anew, loaded, session

from mlxlm.generate import PrefixStore
from mlxlm.generate.spec_drafts import PromptLookup

SYSTEM = "Be brief, be kind, and never lie to anybody at all."
QUESTIONS = ("Hello there", "Why is the sky blue?", "Hello there", "Why is the sky blue?")
KINDS = ("llama", "sliding", "rigid", *HYBRIDS)


def drafts(kind):
    return {"lookup": {"draft": "lookup"}, "a model": {"draft": loaded(kind), "num_draft_tokens": 3},
            "both": {"draft": loaded(kind), "prompt_lookup": True}}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["lookup", "a model", "both"])
def test_drafts_and_a_store_leave_the_answers_alone(kind, way):
    store, guessed, right = PrefixStore(), 0, 0
    for _ in range(2):
        chat = session(kind, instructions=SYSTEM, prefix_store=store, **drafts(kind)[way])
        for question in QUESTIONS:
            reply = chat.respond(question)
            assert reply == anew(chat)
            guessed, right = guessed + reply.stats.draft_tokens, right + reply.stats.accepted_tokens
    assert store.reused_tokens > 0
    assert guessed > 0 and (way == "lookup" or right > 0)


@pytest.mark.parametrize("more", [{}, {"draft": "lookup"}, {"prefix_store": True}])
def test_penalties_see_what_was_said_before(more):
    """The window of the penalty reaches back over the new question into the turns before it."""
    more = {name: PrefixStore() if name == "prefix_store" else value for name, value in more.items()}
    settings = {"repetition_penalty": 1.5, "repetition_context_size": 200, "presence_penalty": 0.5,
                "presence_context_size": 200}
    chat = session("llama", instructions=SYSTEM, **settings, **more)
    for question in QUESTIONS:
        reply = chat.respond(question)
        assert reply == anew(chat, **settings)
    assert reply.stats.cached_tokens > 0


class Watching(PromptLookup):
    """Notes how many tokens it was shown first."""

    def __init__(self):
        super().__init__()
        self.shown: list[int] = []

    def propose(self, tokens, most, sampler):
        self.shown.append(len(tokens))
        return super().propose(tokens, most, sampler)


def test_lookup_sees_the_turns_before():
    watching = Watching()
    chat = session("llama", draft=watching)
    chat.respond(QUESTIONS[0])
    watching.shown.clear()
    reply = chat.respond(QUESTIONS[1])
    assert reply.stats.cached_tokens > 0
    assert watching.shown[0] == reply.stats.cached_tokens + reply.stats.prompt_tokens + 1
