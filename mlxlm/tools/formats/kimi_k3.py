"""Kimi K3: XTML, in which thought, response, calls and arguments are elements between control tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..calls import Kind, Piece, ToolCall
from ..cursor import Cursor, Reading
from ..format import Frame
from ..jsontext import decode, encode
from ..markup import ATTRIBUTE, BROKEN, Markup
from ..router import Router
from ..schema import Toolbox, json_type
from .minimax_m2 import Tagged

OPEN, CLOSE, SEP, END = "<|open|>", "<|close|>", "<|sep|>", "<|end_of_msg|>"


def opening(tag: str) -> str:
    return OPEN + tag + SEP


def closing(tag: str) -> str:
    return CLOSE + tag + SEP


class XtmlRouter(Router):
    """Reads elements: a thought is reasoning; the tags around it, the response and the message are markers."""

    def run(self) -> Reading[None]:
        kind: Kind = "reasoning" if self.inside else "content"
        kinds: dict[str, Kind] = {opening("think"): "reasoning", closing("think"): "content",
                                  opening("response"): "content", closing("response"): "content",
                                  closing("message"): "content", END: "content"}
        tools = self.format.openers[0] if self.format else ""
        while True:
            self.thinking = kind == "reasoning"
            at, marker, sure = self.cursor.probe(0, (*kinds, *filter(None, (tools,))))
            if at:
                yield Piece(kind, self.cursor.drop(at))
            if not sure:
                yield None
            elif marker is None:
                return
            elif marker in kinds:
                kind = kinds[marker]
                yield Piece("marker", self.cursor.drop(len(marker)))
            elif self.format and kind == "reasoning" and not (yield from self._implicit(marker)):
                yield Piece(kind, self.cursor.drop(len(marker)))
            elif self.format and kind != "reasoning":
                frame = yield from self.format.frame(self.cursor, marker)
                yield from self._frame(frame or Frame(len(marker), []))
            else:
                kind = "content"


class Xtml(Markup):
    """Elements with attributes; each argument says its type, or one JSON object holds them all."""

    def _argument(self, cursor: Cursor, at: int, name: str, arguments: dict[str, Any],
                  toolbox: Toolbox) -> Reading[int]:
        place, marker = yield from cursor.find(at + len(OPEN), (SEP,))
        if marker is None:
            return -1
        head = cursor.text[at + len(OPEN):place]
        tag = (head.split() or [""])[0]
        if tag not in ("argument", "json"):
            return BROKEN
        inner = start = place + len(SEP)
        while True:
            place, marker = yield from cursor.find(inner, (closing(tag),))
            if marker is None:
                return -1
            inner = place + len(marker)
            after = yield from cursor.skip(inner)
            if (yield from cursor.starts(after, (OPEN, self.call_end))) or after == len(cursor.text):
                break
        text = cursor.text[start:place]
        fine, value = decode(text)
        attributes = attributes_of(head)
        if tag == "json" and fine and isinstance(value, dict):
            arguments.update(value)
        elif tag != "json" and "key" in attributes:
            typed = fine and attributes.get("type", "string") != "string"
            arguments[attributes["key"]] = value if typed else text
        else:
            return BROKEN
        return inner

    def _name(self, head: str) -> str:
        return attributes_of(head).get("tool", "")

    def write(self, calls: Sequence[ToolCall]) -> str:
        written = []
        for index, call in enumerate(calls, 1):
            parts = [_element(f'argument key="{_escaped(key)}" type="{_type(value)}"', value)
                     for key, value in call.arguments.items()]
            written.append(f'{OPEN}call tool="{_escaped(call.name)}" index="{index}"{SEP}{"".join(parts)}'
                           f"{closing('call')}")
        return opening("tools") + "".join(written) + closing("tools")


def attributes_of(head: str) -> dict[str, str]:
    found = {key: value.strip('"') for key, value in ATTRIBUTE.findall(head)}
    return {key: value.replace("&quot;", '"').replace("&amp;", "&") for key, value in found.items()}


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;")


def _type(value: Any) -> str:
    return "number" if (kind := json_type(value)) == "integer" else kind


def _element(head: str, value: Any) -> str:
    return f"{OPEN}{head}{SEP}{value if isinstance(value, str) else encode(value)}{closing(head.split()[0])}"


class KimiK3(Tagged):
    name = "kimi_k3"
    openers = (opening("tools"),)
    bodies = (OPEN + "call",)
    router = XtmlRouter
    controls = (OPEN, CLOSE, SEP, END)
    tags = Xtml(frame=(opening("tools"), closing("tools")), call=OPEN + "call", call_end=closing("call"),
                argument=OPEN, argument_end=closing("argument"), head=SEP)


FORMAT = KimiK3
