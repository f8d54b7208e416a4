"""Options of the engine, by mlx-lm's names: drafts, packed caches, saved prompts, formats, experts and memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import click

from ..errors import ConfigError, UsageError
from ..kernels.rounding import CHOICES

_SHARED = (
    click.option("--draft-model", metavar="MODEL",
                 help="A smaller model that guesses ahead, lookup for the text's own repetitions, or mtp."),
    click.option("--num-draft-tokens", type=int, metavar="N", help="Tokens to guess at once, at most."),
    click.option("--prompt-lookup", is_flag=True, help="Guess what followed the last tokens where they stood before."),
    click.option("--kv-bits", type=int, metavar="BITS", help="Pack keys and values to 2, 3, 4, 5, 6 or 8 bits."),
    click.option("--kv-group-size", type=int, default=64, show_default=True, metavar="N",
                 help="How many packed numbers share a scale."),
    click.option("--quantized-kv-start", type=int, default=5000, show_default=True, metavar="N",
                 help="Tokens in the cache from which on --kv-bits packs it."),
    click.option("--response-format", metavar="JSON",
                 help="Hold the answer to json, or to an object such as '{\"type\": \"regex\", \"pattern\": …}'."),
    click.option("--json-schema", metavar="FILE", help="Hold the answer to the JSON schema in a file."),
    click.option("--experts-per-token", type=int, metavar="N", help="How many experts of a mixture work on a token."),
    click.option("--activations", type=click.Choice(CHOICES),
                 help="Read prompts faster on a CPU, with activations of quantized weights rounded to 8 bits."),
    click.option("--memory-limit", metavar="SIZE", help="Memory that MLX may hold, such as 12G, or off."),
)
PROMPT_CACHE = click.option("--prompt-cache-file", metavar="FILE",
                            help="Go on behind what a saved prompt cache holds, mlx-lm's or ours.")


def engine_options(function: Callable) -> Callable:
    """The options that `mlxlm generate` and `mlxlm chat` share."""
    for decorate in reversed(_SHARED):
        function = decorate(function)
    return function


def loading(options: Mapping[str, Any]) -> dict[str, Any]:
    """What of them `mlxlm.load` takes, those that were given."""
    names = {"draft_model": "draft", "experts_per_token": "experts_per_token", "memory_limit": "memory_limit",
             "activations": "activations"}
    return {name: options[option] for option, name in names.items() if options.get(option) is not None}


def generating(options: Mapping[str, Any]) -> dict[str, Any]:
    """What of them `stream_generate` takes. Raises MLXLMError for a format that isn't one."""
    names = ("num_draft_tokens", "prompt_lookup", "kv_bits", "kv_group_size", "quantized_kv_start", "memory_limit")
    chosen = {name: options[name] for name in names if options.get(name) is not None}
    asked, file = options.get("response_format"), options.get("json_schema")
    if asked is not None and file is not None:
        raise UsageError("--response-format and --json-schema were given", expected="one of them")
    if asked is not None:
        chosen["response_format"] = _format(asked)
    if file is not None:
        chosen["response_format"] = {"type": "json_schema", "json_schema": {"schema": _schema(file)}}
    return chosen


def _format(text: str) -> Any:
    from .options import json_object

    return "json_object" if text in ("json", "json_object") else json_object(text, "--response-format")


def _schema(file: str) -> Any:
    from .prompt import read_text

    try:
        return json.loads(read_text(file))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"not JSON ({error})", where=file, expected="a JSON schema") from error


def continued(model: Any, processor: Any, prompt: Any, more: Mapping[str, Any] | None,
              options: Mapping[str, Any]) -> tuple[list[int], dict[str, Any]]:
    """(the ids behind a saved prompt, keywords of `stream_generate`) for --prompt-cache-file.

    prompt: text, or messages for the chat template with its variables ``more``, of which only what comes from the last
    question on is read: as with mlx-lm, the file holds what stands before it.
    """
    from ..generate import load_prompt_cache

    if options["images"] or options["videos"]:
        raise UsageError("images and videos can't go behind a saved prompt", where="--prompt-cache-file")
    if more is not None and len([one for one in prompt if one["role"] != "assistant"]) != 1:
        raise UsageError("a saved prompt is followed by one question", where="--prompt-cache-file",
                         found="more messages", hint="A system prompt is a part of what was saved.")
    cache = load_prompt_cache(options["prompt_cache_file"], model)
    rest = prompt if more is None else _behind(processor, prompt, more)
    return processor.encode(rest, add_special_tokens=False), {"cache": cache, "parse": more is not None}


def _behind(processor: Any, messages: list[dict[str, Any]], more: Mapping[str, Any]) -> str:
    """What a template writes from the question's first character on."""
    mark = "mlxlm's question"
    if not isinstance(messages[0].get("content"), str):
        raise UsageError("the question must be text", where="--prompt-cache-file")
    marked = [{**messages[0], "content": mark}, *messages[1:]]
    variables = {"add_generation_prompt": True, **more, "tokenize": False}
    whole, bare = (processor.apply_chat_template(chat, **variables) for chat in (messages, marked))
    at = bare.find(mark)
    if at < 0 or whole[:at] != bare[:at]:
        raise UsageError("the chat template doesn't keep the question as it is", where="--prompt-cache-file",
                         hint="Try --ignore-chat-template.")
    return whole[at:]
