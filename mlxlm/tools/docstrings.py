"""What a docstring says of a function and its parameters, in Google's, numpy's or Sphinx's style."""

from __future__ import annotations

import inspect
import re

ARGUMENTS = ("args", "arguments", "parameters", "params", "other parameters", "keyword args", "keyword arguments")
OTHERS = ("returns", "return", "yields", "raises", "examples", "example", "notes", "note", "attributes", "see also",
          "warnings", "warns", "references", "todo")
GOOGLE_HEAD = re.compile(r"^(\s*)([A-Za-z ]+):\s*$")
GOOGLE_ITEM = re.compile(r"^(\*{0,2}\w+)\s*(?:\([^)]*\))?\s*:\s*(.*)$")
NUMPY_ITEM = re.compile(r"^(\*{0,2}\w+(?:\s*,\s*\*{0,2}\w+)*)\s*(?::.*)?$")
SPHINX_ITEM = re.compile(r"^\s*:(?:param|parameter|arg|argument|key|keyword)\s+(?:[^:]*\s)?\*{0,2}(\w+)\s*:\s*(.*)$")
SPHINX_FIELD = re.compile(r"^\s*:(\w+)(\s[^:]*)?:")


def read(docstring: str | None) -> tuple[str, dict[str, str]]:
    """(the description in front of all sections, each parameter's text) of a docstring; empty where it says nothing."""
    lines = inspect.cleandoc(docstring or "").splitlines()
    if any(SPHINX_ITEM.match(line) for line in lines):
        return _sphinx(lines)
    heads = [(at, name, size) for at in range(len(lines)) if (found := _head(lines, at)) for name, size in [found]]
    description = lines[: heads[0][0]] if heads else lines
    described: dict[str, str] = {}
    ends = [at for at, _, _ in heads[1:]] + [len(lines)]
    for (at, name, size), end in zip(heads, ends, strict=False):
        if name in ARGUMENTS:
            body = lines[at + size: end]
            described |= _numpy(body) if size == 2 else _google(body)
    return _joined(description), described


def _head(lines: list[str], at: int) -> tuple[str, int] | None:
    """The name of the section that begins at a line, and how many lines its head has (numpy's is underlined)."""
    below = lines[at + 1].strip() if at + 1 < len(lines) else ""
    name = lines[at].strip().lower()
    if len(below) >= 3 and not below.strip("-") and name in ARGUMENTS + OTHERS:
        return name, 2
    found = GOOGLE_HEAD.match(lines[at])
    if found and not found[1] and found[2].lower() in ARGUMENTS + OTHERS:
        return found[2].lower(), 1
    return None


def _google(body: list[str]) -> dict[str, str]:
    """Items at the first line's depth, ``name (type): text``; what is deeper goes on with the last."""
    filled = [line for line in body if line.strip()]
    depth = len(filled[0]) - len(filled[0].lstrip()) if filled else 0
    found: dict[str, list[str]] = {}
    name = None
    for line in filled:
        item = GOOGLE_ITEM.match(line[depth:]) if line[:depth].strip() == "" else None
        if item and not line[depth:][:1].isspace():
            name = item[1].lstrip("*")
            found[name] = [item[2]]
        elif name is not None:
            found[name].append(line)
    return {name: _joined(texts) for name, texts in found.items()}


def _numpy(body: list[str]) -> dict[str, str]:
    """Items without indentation, ``name : type``, and their texts indented below."""
    found: dict[str, list[str]] = {}
    names: list[str] = []
    for line in body:
        item = NUMPY_ITEM.match(line)
        if item and line[:1].strip():
            names = [name.strip().lstrip("*") for name in item[1].split(",")]
            found |= {name: [] for name in names}
        else:
            for name in names:
                found[name].append(line)
    return {name: _joined(texts) for name, texts in found.items()}


def _sphinx(lines: list[str]) -> tuple[str, dict[str, str]]:
    first = next(at for at, line in enumerate(lines) if SPHINX_FIELD.match(line))
    found: dict[str, list[str]] = {}
    name = None
    for line in lines[first:]:
        item = SPHINX_ITEM.match(line)
        if item:
            name = item[1]
            found[name] = [item[2]]
        elif SPHINX_FIELD.match(line):
            name = None
        elif name is not None:
            found[name].append(line)
    return _joined(lines[:first]), {name: _joined(texts) for name, texts in found.items()}


def _joined(lines: list[str]) -> str:
    """Lines as running text; an empty line between them stays one."""
    paragraphs = "\n".join(line.strip() for line in lines).strip().split("\n\n")
    return "\n\n".join(" ".join(part.split("\n")) for part in paragraphs).strip()
