"""Python literals and their near relations: read by hand, with bare words left for a schema, and nothing evaluated."""

from __future__ import annotations

import ast
import re
import warnings
from typing import Any

from .schema import Bare, settle

QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", re.DOTALL)
SPACE = re.compile(r"\s*")
DEEPEST = 100


class NotALiteral(ValueError):
    """The text isn't the literal that it was read as."""


class Literals:
    """Reads values from ``text``: quoted text, lists, dicts with bare or quoted keys, and bare words.

    ``quote`` is a marker that opens and closes text without escapes; Python's quotes are read where it is None.
    """

    def __init__(self, text: str, quote: str | None = None):
        self.text, self.quote = text, quote
        self.at = 0

    def skip(self) -> str:
        """Passes white space; returns the next character, or nothing."""
        self.at = SPACE.match(self.text, self.at).end()  # type: ignore[union-attr]
        return self.text[self.at: self.at + 1]

    def take(self, mark: str) -> bool:
        """Passes ``mark`` if it is next, white space aside."""
        self.skip()
        if not self.text.startswith(mark, self.at):
            return False
        self.at += len(mark)
        return True

    def need(self, mark: str) -> None:
        if not self.take(mark):
            raise NotALiteral(f"{mark!r} was due at character {self.at}")

    def match(self, pattern: re.Pattern[str]) -> str:
        """Passes what the pattern matches next; NotALiteral if that is nothing."""
        self.skip()
        found = pattern.match(self.text, self.at)
        if found is None or not found[0]:
            raise NotALiteral(f"a name was due at character {self.at}")
        self.at = found.end()
        return found[0]

    def value(self, ends: str, depth: int = 0) -> Any:
        """The value that comes next; a bare word goes up to one of the characters ``ends``."""
        if depth > DEEPEST:
            raise NotALiteral("too deep")
        next_ = self.skip()
        if (text := self.string()) is not None:
            return text
        if next_ == "{":
            return self.dict(depth + 1)
        if next_ in ("[", "("):
            return self.list(depth + 1)
        start = self.at
        while self.at < len(self.text) and self.text[self.at] not in ends:
            self.at += 1
        word = self.text[start:self.at].strip()
        if not word:
            raise NotALiteral(f"a value was due at character {start}")
        return Bare(word)

    def string(self) -> str | None:
        """Quoted text, if it comes next."""
        if self.quote is not None and self.text.startswith(self.quote, self.at):
            start = self.at + len(self.quote)
            end = self.text.find(self.quote, start)
            if end < 0:
                raise NotALiteral("a text isn't closed")
            self.at = end + len(self.quote)
            return self.text[start:end]
        if self.text[self.at: self.at + 1] not in (("'", '"') if self.quote is None else ('"',)):
            return None
        found = QUOTED.match(self.text, self.at)
        if found is None:
            raise NotALiteral("a text isn't closed")
        self.at = found.end()
        return _unquote(found[0])

    def list(self, depth: int) -> list[Any]:
        close = "]" if self.take("[") else ")"
        if close == ")":
            self.need("(")
        items: list[Any] = []
        while not self.take(close):
            items.append(self.value(",]})", depth))
            if not self.take(","):
                self.need(close)
                break
        return items

    def dict(self, depth: int) -> dict[str, Any]:
        self.need("{")
        found: dict[str, Any] = {}
        while not self.take("}"):
            self.skip()
            key = self.string()
            if key is None:
                key = self.value(":,}", depth)
                if not isinstance(key, Bare):
                    raise NotALiteral("a key must be a word or text")
                key = key.text
            self.need(":")
            found[key] = self.value(",]})" if self.quote is None else ",]}", depth)
            if not self.take(","):
                self.need("}")
                break
        return found


def _unquote(token: str) -> str:
    newlines = token.replace("\r", "\\r").replace("\n", "\\n") if token.count("\\") == 0 else _escape_newlines(token)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of unknown escapes, which stay as they are
        try:
            return ast.literal_eval(newlines)
        except (ValueError, SyntaxError) as error:
            raise NotALiteral(f"not a text: {error}") from error


def _escape_newlines(token: str) -> str:
    """Raw line ends as escapes, where they aren't escaped already."""
    names = {"\n": "\\n", "\r": "\\r"}
    return re.sub(r"\\.|[\r\n]", lambda found: names.get(found[0], found[0]), token, flags=re.DOTALL)


def read_literal(text: str) -> Any:
    """The value of a whole text in Python's or JSON's notation; None if it is neither."""
    reader = Literals(text)
    try:
        tree = reader.value(",]})")
        if reader.skip():
            return None
    except NotALiteral:
        return None
    return settle(tree, None, {})
