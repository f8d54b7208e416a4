"""One file a wire format, imported on first use; this table says which file."""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module

from mlxlm.errors import UsageError

from ..format import Format

FILES = {
    "json": "json_", "xml_function": "xml_function", "qwen3_5": "qwen3_5", "lfm2": "lfm2", "pythonic": "pythonic",
    "glm4": "glm4", "gemma": "gemma", "gemma4": "gemma4", "kimi_k2": "kimi_k2", "minimax_m2": "minimax_m2",
    "mistral": "mistral", "llama3": "llama3", "gpt_oss": "gpt_oss", "deepseek": "deepseek",
    "granite": "granite", "atem": "atem", "longcat": "longcat", "minicpm": "minicpm",
    "kimi_k3": "kimi_k3",
}


def find(name: str) -> type[Format]:
    """The format of that name; UsageError names the closest if there is none."""
    if name not in FILES:
        close = get_close_matches(str(name), FILES, n=1)
        raise UsageError("this tool-call format is unknown", where="format", found=repr(name)[:60],
                         hint=f"Did you mean {close[0]}?" if close else f"There are {', '.join(FILES)}.")
    return import_module(f".{FILES[name]}", __name__).FORMAT
