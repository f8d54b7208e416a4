"""Schemas made from functions and models: as transformers makes them, and as JSON schema where it makes none."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import functools
import json
from typing import Annotated, Any, Literal, Optional, TypedDict, Union

import jsonschema
import pytest
from pydantic import BaseModel, Field
from transformers.utils import get_json_schema

from mlxlm.errors import UsageError
from mlxlm.tools import docstrings, parse, tool_schemas
from mlxlm.tools.functions import tool_schema, type_schema


def google(city: str, days: int = 3, tags: Optional[list[str]] = None, scale: Literal["c", "f"] = "c",  # noqa: UP045
           near: dict[str, float] = {}, size: Union[int, str] = 1, spot: tuple[int, str] = (1, "a"),  # noqa: B006, UP007
           unit: str = "x", more: list[dict[str, list[int]]] = [], flag: bool = False):  # noqa: B006
    """The weather of a city.

    Args:
        city: Its name, with: a colon
            and a second line.
        days: How many days.
        tags: Words.
        scale: Of the thermometer.
        near: Places.
        size: Either.
        spot: Both.
        unit: The unit (choices: ["x", "y"])
        more: Deep.
        flag: Yes or no.

    Returns:
        Nothing.
    """


def test_google_style_is_as_transformers_makes_it():
    assert tool_schema(google) == get_json_schema(google)


def numpy_style(city: str, days: int = 3, unit: str = "x"):
    """The weather.

    In some detail.

    Parameters
    ----------
    city : str
        Its name.
        More of it.
    days : int, optional
        How many.
    unit
        The unit.

    Returns
    -------
    str
        Text.
    """


def sphinx_style(city: str, days: int = 3, unit: str = "x"):
    """The weather.

    In some detail.

    :param city: Its name.
        More of it.
    :param int days: How many.
    :type days: int
    :param unit: The unit.
    :returns: Text.
    """


@pytest.mark.parametrize("function", [numpy_style, sphinx_style])
def test_other_styles_say_the_same(function):
    made = tool_schema(function)["function"]
    assert made["description"] == "The weather.\n\nIn some detail." and made["name"] == function.__name__
    assert made["parameters"] == {"type": "object", "required": ["city"], "properties": {
        "city": {"type": "string", "description": "Its name. More of it."},
        "days": {"type": "integer", "description": "How many."},
        "unit": {"type": "string", "description": "The unit."}}}


@pytest.mark.parametrize(("text", "read"), [
    (None, ("", {})), ("", ("", {})), ("One line.", ("One line.", {})),
    ("Text: with a colon.\n\nMore:\n    indented", ("Text: with a colon.\n\nMore: indented", {})),
    ("A.\n\nArgs:\n    x (int): One.\n    *rest: Many.\n    **more: Named.", ("A.", {"x": "One.", "rest": "Many.",
                                                                              "more": "Named."})),
    ("A.\n\nArgs:\n  x: One.\n\n    Two.\n  y: Three.\nRaises:\n  E: Never.",
     ("A.", {"x": "One. Two.", "y": "Three."})),
    ("A.\n\nParameters\n----------\nx, y : int\n    Both.", ("A.", {"x": "Both.", "y": "Both."})),
    ("A.\n\nArgs:\n", ("A.", {})), ("Args:", ("", {})), (":param x: One.", ("", {"x": "One."})),
])
def test_docstrings(text, read):
    assert docstrings.read(text) == read


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Point(TypedDict, total=False):
    x: int
    y: list[float]


@dataclasses.dataclass
class Box:
    corner: Point
    name: str = "box"


class Place(BaseModel):
    """A place."""

    city: str = Field(description="Its name.")
    zone: Literal["CET", "UTC"] = "UTC"


class Trip(BaseModel):
    """A journey."""

    start: Place
    stops: list[Place] = []
    colour: Colour | None = None


@pytest.mark.parametrize(("hint", "schema"), [
    (str, {"type": "string"}), (int | None, {"type": "integer", "nullable": True}), (Any, {}), (object, {}),
    (list, {"type": "array"}), (list[int], {"type": "array", "items": {"type": "integer"}}),
    (set[str], {"type": "array", "items": {"type": "string"}, "uniqueItems": True}),
    (tuple[int, ...], {"type": "array", "items": {"type": "integer"}}), (dict, {"type": "object"}),
    (dict[str, int], {"type": "object", "additionalProperties": {"type": "integer"}}),
    (Colour, {"type": "string", "enum": ["red", "blue"]}), (Literal[1, "a"], {"type": ["integer", "string"],
                                                                              "enum": [1, "a"]}),
    (Point, {"type": "object", "properties": {"x": {"type": "integer"},
                                              "y": {"type": "array", "items": {"type": "number"}}}}),
    (Box, {"type": "object", "required": ["corner"], "properties": {
        "corner": type_schema(Point), "name": {"type": "string"}}}),
    (int | list[int], {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "integer"}}]}),
    (Annotated[int, "How many."], {"type": "integer", "description": "How many."}),
    (Annotated[str, Field(description="Who.")], {"type": "string", "description": "Who."}),
    (datetime.datetime, {"type": "string", "format": "date-time"}),
    (datetime.date, {"type": "string", "format": "date"}),
])
def test_types(hint, schema):
    assert type_schema(hint) == schema


def test_pydantic_models_are_written_out():
    made = tool_schema(Trip)["function"]
    assert (made["name"], made["description"]) == ("Trip", "A journey.")
    text = json.dumps(made)
    assert "$ref" not in text and "$defs" not in text
    place = made["parameters"]["properties"]["start"]
    assert place["properties"]["city"] == {"type": "string", "description": "Its name."}
    jsonschema.validate({"start": {"city": "Paris"}, "stops": [{"city": "Rome"}], "colour": "red"}, made["parameters"])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"start": {}}, made["parameters"])


class Tree(BaseModel):
    branches: list[Tree] = []


def test_a_schema_in_a_circle_comes_to_an_end():
    assert "$ref" not in json.dumps(tool_schema(Tree))


class Clock:
    """Tells the time."""

    def now(self, zone: str) -> str:
        """The time.

        Args:
            zone: Where.
        """
        return zone

    def __call__(self, zone: str) -> str:
        """The time, again."""
        return zone


def test_methods_partials_and_objects():
    expected = {"type": "object", "properties": {"zone": {"type": "string", "description": "Where."}},
                "required": ["zone"]}
    assert tool_schema(Clock().now)["function"]["parameters"] == expected
    assert tool_schema(Clock())["function"]["name"] == "Clock"
    made = tool_schema(functools.partial(google, "Paris"))["function"]
    assert made["name"] == "google" and "city" not in made["parameters"]["properties"]
    bound = tool_schema(functools.partial(google, days=1))["function"]["parameters"]
    assert bound["required"] == ["city"]


def test_a_function_without_hints_takes_anything():
    def plain(a, b=1, *rest, **more):
        pass

    assert tool_schema(plain)["function"]["parameters"] == {
        "type": "object", "properties": {"a": {}, "b": {}}, "required": ["a"], "additionalProperties": True}


def test_dicts_come_through_in_openais_form():
    inner = {"name": "f", "parameters": {"type": "object"}}
    outer = {"type": "function", "function": inner}
    assert tool_schemas([inner, outer]) == [outer, outer] and tool_schemas(None) is None and tool_schemas([]) == []


@pytest.mark.parametrize("tools", ["f", {"name": "f"}, [5], [{}], [{"function": {"name": ""}}], [{"function": 5}], 5,
                                   [lambda a, /: a]])
def test_what_is_no_tool(tools):
    with pytest.raises(UsageError):
        tool_schemas(tools)


def test_a_hint_that_cannot_be_read_is_explained():
    def bad(a: Nowhere):  # noqa: F821
        pass

    with pytest.raises(UsageError, match="can't be found out"):
        tool_schema(bad)


def test_parse_takes_functions():
    text = "<tool_call>\n<function=google>\n<parameter=days>\n2\n</parameter>\n</function>\n</tool_call>"
    assert parse(text, "xml_function", [google]).tool_calls[0].arguments == {"days": 2}
