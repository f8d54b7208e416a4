"""Reuse and drafts beside images: the same picture is the same beginning, another one is not."""

import numpy as np
from vlm.test_generate import folder, loaded, picture

from mlxlm import stream_generate
from mlxlm.generate import PrefixStore

__all__ = ["folder", "loaded"]  # fixtures


def say(loaded, messages, image, **settings):
    stream = stream_generate(*loaded, messages, images=[image], max_tokens=8, **settings)
    pieces = [p for p in stream if p.token is not None]
    return [p.token for p in pieces], np.stack([np.array(p.logits) for p in pieces]), stream.stats


def same(found, expected):
    assert np.abs(found[1] - expected[1]).max() <= 5e-5 * expected[1].std()
    assert found[0] == expected[0]


def test_a_store_knows_pictures_by_their_content(loaded):
    store = PrefixStore()
    first = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it, and why?"}]}]
    said = say(loaded, first, picture(1), prefix_store=store)
    same(said, say(loaded, first, picture(1)))
    follow = [*first, {"role": "assistant", "content": "A cat."}, {"role": "user", "content": "And its colour?"}]
    again = say(loaded, follow, picture(1), prefix_store=store)
    same(again, say(loaded, follow, picture(1)))
    assert again[2].cached_tokens > 20
    other = say(loaded, follow, picture(2), prefix_store=store)
    same(other, say(loaded, follow, picture(2)))
    assert other[2].cached_tokens < 20  # what stands before the picture alone
    # Behind a picture positions are shifted: a beginning that ends there is found by its checkpoint.
    branch = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it, if anything?"}]}]
    third = say(loaded, branch, picture(1), prefix_store=store)
    same(third, say(loaded, branch, picture(1)))


def test_lookup_beside_a_picture_says_the_same(loaded):
    ask = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "one two one two one two"}]}]
    expected = say(loaded, ask, picture(1))
    found = say(loaded, ask, picture(1), prompt_lookup=True)
    same(found, expected)
    more = say(loaded, ask, picture(1), draft=Right(loaded, ask, expected[0]))
    same(more, expected)
    assert more[2].accepted_tokens > 2


class Right:
    """Guesses what is known to come, with one token wrong in the middle."""

    def __init__(self, loaded, ask, answer):
        stream = stream_generate(*loaded, ask, images=[picture(1)], max_tokens=1)
        self.known = [*stream.prompt.tolist(), *answer]
        self.known[-4] = 5
        stream.close()

    def propose(self, tokens, most, sampler):
        return self.known[len(tokens) : len(tokens) + most]
