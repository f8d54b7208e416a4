"""Qwen 3 Coder, Qwen 3 Next, Nemotron: a tag for the function and one for each argument."""

from __future__ import annotations

from .qwen3_5 import Framed


class XmlFunction(Framed):
    """What it reads is Qwen 3.5's: a JSON object between the tags is as clear here as there."""

    name = "xml_function"
    openers = ("<tool_call>", "<function=")


FORMAT = XmlFunction
