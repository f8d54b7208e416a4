"""Random walks through a grammar: a model that knows nothing but the mask, and whose every answer is valid still."""

import random
from functools import cache

import made
from hypothesis import strategies as st

from mlxlm.generate.constrain import Constraint, make_constraint
from mlxlm.text.settings import Settings, token_spec
from mlxlm.text.tokenizer import Tokenizer

EOS = {"llama2": "</s>", "llama2 legacy": "</s>", "llama2 bare": "</s>", "gemma": "<eos>", "unigram": "</s>",
       "gpt2": "<|endoftext|>", "llama3": "<|eot_id|>", "qwen2": "<|im_end|>", "regex replace": "</s>",
       "strip each": "</s>", "metaspace never": "</s>"}


@cache
def tokenizer(kind: str) -> Tokenizer:
    spec = token_spec(EOS[kind], "test", "eos_token", special=True)
    return Tokenizer(made.kind(kind), Settings(named={"eos_token": spec}))


def walk(tokens: Tokenizer, response_format, seed: int, most: int = 2000) -> str | None:
    """The text of a random answer, None if it grew too long; the constraint is checked at each step."""
    chance = random.Random(seed)
    constraint = make_constraint(tokens, response_format)
    taken: list[int] = []
    for _ in range(most):
        mask = constraint.mask()
        allowed = mask.nonzero()[0].tolist()
        assert allowed, "nothing may follow, and the answer isn't whole"
        ends = [i for i in constraint.vocabulary.eos if mask[i]]
        assert bool(ends) == constraint.satisfied
        token = chance.choice(ends if ends and chance.random() < 0.3 else allowed)
        assert constraint.accept(token)
        if token in constraint.vocabulary.eos:
            return tokens.decode(taken)
        taken.append(token)
    return None


def reaches(constraint: Constraint, ids: list[int]) -> bool:
    """Whether the ids, and then an EOS token, are an answer."""
    return all(constraint.accept(i) for i in ids) and constraint.accept(constraint.vocabulary.eos[0])


NAMES = st.sampled_from(["a", "b", "name", "x y", "ä", 'q"', "n\\"])


def schemas(depth: int = 2) -> st.SearchStrategy:
    """JSON schemas of bounded values, of the keywords that structured output is asked for."""
    leaves = st.one_of(
        st.just({"type": "null"}), st.just({"type": "boolean"}),
        st.integers(-50, 50).flatmap(lambda low: st.integers(low, low + 500).map(
            lambda high: {"type": "integer", "minimum": low, "maximum": high})),
        st.tuples(st.integers(0, 3), st.integers(3, 8)).map(
            lambda n: {"type": "string", "minLength": n[0], "maxLength": n[1]}),
        st.sampled_from(["^[a-c]{1,4}$", "^\\d{2}-\\d{2}$", "^(yes|no)$"]).map(
            lambda p: {"type": "string", "pattern": p}),
        st.lists(st.one_of(st.integers(-9, 9), NAMES, st.none(), st.booleans()), min_size=1, max_size=4).map(
            lambda values: {"enum": values}),
        st.sampled_from(["uuid", "ipv4"]).map(lambda f: {"type": "string", "format": f}),
        NAMES.map(lambda value: {"const": value}),
        st.just({"type": "number", "minimum": 0, "maximum": 1, "x-guidance": {}}).map(
            lambda s: {k: v for k, v in s.items() if k != "x-guidance"}),
    )
    if not depth:
        return leaves
    inner = schemas(depth - 1)
    return st.one_of(
        leaves,
        st.tuples(inner, st.integers(0, 2), st.integers(2, 3)).map(
            lambda t: {"type": "array", "items": t[0], "minItems": t[1], "maxItems": t[2]}),
        st.dictionaries(NAMES, inner, max_size=3).flatmap(lambda p: st.sets(st.sampled_from(sorted(p))).map(
            lambda required: {"type": "object", "properties": p, "required": sorted(required),
                              "additionalProperties": False}) if p else st.just(
            {"type": "object", "properties": {}, "additionalProperties": False})),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"anyOf": parts}),
        inner.map(lambda part: {"$defs": {"part": part}, "type": "array", "items": {"$ref": "#/$defs/part"},
                                "maxItems": 2}) if depth == 2 else inner,
    )


def patterns() -> st.SearchStrategy[str]:
    """Regular expressions whose matches are bounded."""
    atoms = st.sampled_from(["a", "b", "[a-f]", r"\d", "é", "[^a-z]", " ", r"\.", "你", r"\w", r"[\w.]", r"\S",
                             "(?:ab|c)", "🙂"])
    counts = st.sampled_from(["", "?", "{2}", "{0,3}", "{1,2}"])
    piece = st.tuples(atoms, counts).map("".join)
    branch = st.lists(piece, min_size=1, max_size=4).map("".join)
    return st.lists(branch, min_size=1, max_size=3).map(lambda b: b[0] if len(b) == 1 else f"(?:{'|'.join(b)})")
