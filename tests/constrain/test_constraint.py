"""A constraint moves forward, back and aside as speculation needs it; what can't be enforced is told at once."""

import enum
import random
import re
from dataclasses import dataclass
from typing import Literal

import mlx.core as mx
import numpy as np
import pydantic
import pytest
import walks

from mlxlm.errors import GenerationError
from mlxlm.generate.constrain import make_constraint, masked, masks

SCHEMA = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 5}, "age": {"type": "integer"}},
          "required": ["name", "age"], "additionalProperties": False}


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Point:
    x: int
    y: int


class Person(pydantic.BaseModel):
    name: str
    tags: list[str] = []


@pytest.fixture
def tokens():
    return walks.tokenizer("gpt2")


def test_rolling_back_is_never_having_gone(tokens):
    chance = random.Random(3)
    constraint, plain = (make_constraint(tokens, SCHEMA) for _ in range(2))
    for _ in range(60):
        ahead = chance.randrange(4)
        for _ in range(ahead):
            allowed = constraint.mask().nonzero()[0].tolist()
            if not allowed or not constraint.accept(chance.choice(allowed)):
                break
        constraint.rollback(len(constraint.accepted) - len(plain.accepted))
        assert (constraint.mask() == plain.mask()).all()
        assert (constraint.finished, constraint.satisfied) == (plain.finished, plain.satisfied)
        allowed = plain.mask().nonzero()[0].tolist()
        if not allowed:
            break
        token = chance.choice(allowed)
        assert plain.accept(token) and constraint.accept(token)
    assert len(plain.accepted) > 10


def test_an_eos_token_can_be_taken_back_too(tokens):
    constraint = make_constraint(tokens, ["a", "ab"])
    a, b = (tokens.encode(letter)[0] for letter in "ab")
    eos = constraint.vocabulary.eos[0]
    assert not constraint.accept(eos) and constraint.accept(a) and constraint.accept(eos)
    assert constraint.finished and not constraint.mask().any() and not constraint.accept(b)
    constraint.rollback(1)
    assert constraint.accept(b) and constraint.accept(eos)
    constraint.rollback(3)
    assert constraint.accepted == [] and constraint.accept(a)
    with pytest.raises(GenerationError, match="take back"):
        constraint.rollback(2)


def test_a_copy_goes_its_own_way(tokens):
    constraint = make_constraint(tokens, re.compile("abc|abd"))
    constraint.accept(tokens.encode("a")[0])
    other = constraint.copy()
    assert other.accept(tokens.encode("b")[0])
    assert len(constraint.accepted) == 1 and (constraint.mask() != other.mask()).any()


def test_what_is_forced_is_a_draft(tokens):
    constraint = make_constraint(tokens, {"type": "object", "properties": {"temperature": {"type": "integer"}},
                                          "required": ["temperature"], "additionalProperties": False,
                                          "x-guidance": {"whitespace_flexible": False}})
    forced = constraint.forced()
    assert tokens.decode(forced).startswith('{"temp') and all(map(constraint.accept, forced))


def test_as_a_logits_processor_it_follows_the_tokens(tokens):
    constraint = make_constraint(tokens, ["ab", "ac"])
    prompt = tokens.encode("dog")
    a, b, c = (tokens.encode(letter)[0] for letter in "abc")
    width = len(constraint.vocabulary.tokens) + 5  # a model's vocabulary may be wider than its tokenizer's

    def allowed(*ids):
        logits = constraint(mx.array([*prompt, *ids]), mx.zeros((1, width)))
        return set(np.nonzero(np.isfinite(np.array(logits[0])))[0].tolist())

    assert a in allowed() and b not in allowed()
    assert {b, c} <= allowed(a) and allowed(a, c) == set(constraint.vocabulary.eos)
    assert allowed(a, b) == set(constraint.vocabulary.eos)  # c was a draft, and refused
    with pytest.raises(GenerationError, match="doesn't allow"):
        allowed(c)


def test_masks_made_together_are_those_made_alone(tokens):
    made = [make_constraint(tokens, f) for f in (SCHEMA, ["red", "blue"], re.compile("[0-9]{3}"))]
    made[1].accept(tokens.encode("r")[0])
    assert (masks(made) == np.stack([c.mask() for c in made])).all()
    logits = mx.random.normal((3, len(made[0].vocabulary.tokens)))
    for row, constraint in enumerate(made):
        assert mx.array_equal(masked(logits, masks(made))[row: row + 1], constraint.apply(logits[row: row + 1]))


@pytest.mark.parametrize("form, accepted, refused", [
    (Person, '{"name": "x", "tags": []}', '{"tags": []}'), (Point, '{"x":1,"y":2}', '{"x":1}'),
    (list[int], "[1,2]", '["a"]'),
    (Color, "red", '"red"'), (Literal["red", "blue"], "blue", "green"), (("yes", "no"), "no", "maybe"),
    ("json_object", '{"a":[1,null]}', "[1]"), ({"type": "json_object"}, "{}", "1"),
    ({"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}, '{"name":"a","age":1}', "{}"),
    ({"type": "json_schema", "schema": SCHEMA}, '{"name":"a","age":1}', "{}"),
    ({"type": "regex", "pattern": "a+"}, "aaa", "b"), ({"type": "choice", "choices": ["a b"]}, "a b", "a"),
    ({"type": "grammar", "grammar": 'start: "x"+'}, "xx", "y"), (re.compile("ab", re.I), "aB", "abc"),
    (re.compile("^a.c$"), "abc", "a\nc"), (re.compile("a.c", re.S), "a\nc", "ac"), ({}, '"anything"', "nothing"),
    (True, "12", "x"), (int, "12", "1.5"), (re.compile("a/b"), "a/b", "ab"), (re.compile(r"[\"\\]x"), '"x', "x"),
], ids=str)
def test_forms(tokens, form, accepted, refused):
    assert walks.reaches(make_constraint(tokens, form), tokens.encode(accepted))
    assert not walks.reaches(make_constraint(tokens, form), tokens.encode(refused))


@pytest.mark.parametrize("form, part", [
    ({"type": "integer", "minimum": 5, "maximum": 3}, "Unsatisfiable"), (False, "held to this"),
    ({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}, "finite"),
    ({"$defs": {"a": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/b"}},
                "b": {"anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}]}}, "$ref": "#/$defs/a"}, "finite"),
    ({"type": "array", "uniqueItems": True}, "uniqueItems"), ({"not": {"type": "string"}}, "not"),
    ({"type": "strin"}, "strin"), ({"$ref": "#/$defs/x"}, "x"), ({"type": "string", "pattern": "a(?=b)"}, "look"),
    ({"enum": []}, "Unsatisfiable"), (re.compile("a(?=b)"), "look"), (re.compile(r"(a)\1"), "backreference"),
    ({"type": "regex", "pattern": "("}, "regular expression"), ({"type": "regex"}, "pattern"), ([], "choose"),
    (["a", 3], "text"), ("[a-z]+", "re.compile"), ('start: "x" missing', "missing"), (7, "response format"),
    ("", "response format"), (re.compile(b"a"), "text"), ({"a": object()}, "JSON"), (object(), "response format"),
    (lambda: None, "schema"), ({"type": "grammar", "grammar": 3}, "text"), ({"type": "object", "x": float("nan")}, ""),
], ids=str)
def test_what_cannot_be_enforced_is_an_error_at_once(tokens, form, part):
    with pytest.raises(GenerationError, match=f"(?i){part}"):
        make_constraint(tokens, form)


def test_a_recursion_that_can_end_is_taken(tokens):
    tree = {"type": "object", "properties": {"child": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
            "required": ["child"], "additionalProperties": False}
    assert walks.reaches(make_constraint(tokens, tree), tokens.encode('{"child":{"child":null}}'))


def test_a_tokenizer_without_an_end_is_refused():
    from mlxlm.text.settings import Settings
    from mlxlm.text.tokenizer import Tokenizer

    with pytest.raises(GenerationError, match="EOS"):
        make_constraint(Tokenizer(walks.made.byte_level(), Settings()), ["a"])
