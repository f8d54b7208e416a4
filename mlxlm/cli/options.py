"""Options that commands share, as decorators: names and meanings are mlx-lm's wherever it has them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import click

from ..errors import UsageError
from . import engine_options as engine


class ModelName(click.ParamType):
    """A model's name as any text; a shell is offered presets, downloaded models, and files."""

    name = "model"

    def shell_complete(self, ctx, param, incomplete):
        from click.shell_completion import CompletionItem

        from ..registry import LLMRegistry, VLMRegistry
        from ..sources.store import stored

        known = {*LLMRegistry.names, *VLMRegistry.names, *(model.name for model in stored())}
        fitting = [CompletionItem(name) for name in sorted(known, key=str.lower) if name.startswith(incomplete)]
        return [*fitting, CompletionItem(incomplete, type="file")]


MODEL = ModelName()


def _all(*decorators: Callable) -> Callable:
    def decorate(function: Callable) -> Callable:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


loading_options = _all(
    click.option("--revision", metavar="REV", help="A branch, tag or commit of the repository."),
    click.option("--adapter-path", metavar="FOLDER", help="Trained adapter weights and their config."),
    click.option("--tokenizer", metavar="ID", help="Take the tokenizer from another repository or folder."),
    click.option("--extra-eos-token", metavar="TOKEN", multiple=True,
                 help="One more token that ends the answer; may be given again."),
    click.option("--dtype", type=click.Choice(["float32", "bfloat16", "float16"]),
                 help="Convert weights that aren't quantized."),
)


def _max_tokens(default: int) -> Callable:
    return click.option("-m", "--max-tokens", type=int, default=default, show_default=True, metavar="N",
                        help="Tokens of the answer at most; -1 for as many as the context holds.")


_drawing = _all(
    click.option("--temp", "--temperature", "temperature", type=float, default=0.0, show_default=True, metavar="T",
                 help="0 always takes the likeliest token."),
    click.option("--top-p", type=float, default=1.0, show_default=True, metavar="P",
                 help="Draw from the likeliest tokens that make up P together."),
    click.option("--min-p", type=float, default=0.0, show_default=True, metavar="P",
                 help="Drop tokens less likely than P times the likeliest."),
    click.option("--min-tokens-to-keep", type=int, default=1, show_default=True, metavar="N",
                 help="Tokens that --min-p leaves at least."),
    click.option("--top-k", type=int, default=0, show_default=True, metavar="K",
                 help="Draw from the K likeliest tokens; 0 for all."),
    click.option("--xtc-probability", type=float, default=0.0, show_default=True, metavar="P",
                 help="How often XTC leaves out the likeliest tokens."),
    click.option("--xtc-threshold", type=float, default=0.1, show_default=True, metavar="P",
                 help="How likely a token must be for XTC to leave it out."),
    click.option("--seed", type=int, metavar="N", help="Makes sampling repeatable."),
    click.option("--repetition-penalty", type=float, metavar="X",
                 help="Above 1 makes tokens of the context less likely."),
    click.option("--repetition-context-size", type=int, default=20, show_default=True, metavar="N",
                 help="How many of the last tokens --repetition-penalty looks at."),
    click.option("--presence-penalty", type=float, metavar="X",
                 help="Subtracted once from the logit of every token of the context."),
    click.option("--presence-context-size", type=int, default=20, show_default=True, metavar="N",
                 help="How many of the last tokens --presence-penalty looks at."),
    click.option("--frequency-penalty", type=float, metavar="X",
                 help="Subtracted each time that the token occurs in the context."),
    click.option("--frequency-context-size", type=int, default=20, show_default=True, metavar="N",
                 help="How many of the last tokens --frequency-penalty looks at."),
    click.option("--logit-bias", metavar="ID=BIAS", multiple=True,
                 help="Added to a token's logit, -inf forbids it; may be given again, or as one JSON object."),
    click.option("--stop", metavar="TEXT", multiple=True,
                 help="End the answer before this text; may be given again."),
    click.option("--max-kv-size", type=int, metavar="N", help="Keep a rotating cache of N tokens."),
    click.option("--beyond-context", is_flag=True, help="Take a prompt longer than the model's context."),
    click.option("--prefill-step-size", type=int, default=512, show_default=True, metavar="N",
                 help="Prompt tokens that are read at a time."),
)
sampling_options = _all(_max_tokens(256), _drawing)
chat_sampling_options = _all(_max_tokens(4096), _drawing)

SAMPLING = ("max_tokens", "temperature", "top_p", "min_p", "min_tokens_to_keep", "top_k", "xtc_probability",
            "xtc_threshold", "seed", "repetition_penalty", "repetition_context_size", "presence_penalty",
            "presence_context_size", "frequency_penalty", "frequency_context_size", "stop", "max_kv_size",
            "beyond_context", "prefill_step_size")

template_options = _all(
    click.option("--system-prompt", metavar="TEXT", help="A system message before the conversation."),
    click.option("--chat-template-config", metavar="JSON",
                 help="An object of further variables for the chat template, such as '{\"enable_thinking\": false}'."),
)


def parameters(options: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords of `stream_generate` that the options of a command line ask for."""
    chosen = {name: options[name] for name in SAMPLING}
    chosen["logit_bias"] = logit_bias(options["logit_bias"])
    chosen |= engine.generating(options)
    if options.get("role"):
        from ..roles import find

        said = find(options["role"]).generate_arguments()
        chosen |= {name: value for name, value in said.items() if not chosen.get(name)}
    return chosen


ROLE = click.option("--role", metavar="ROLE", help="The model of a role, with its draft; `mlxlm roles` lists them.")


def load(source: str, options: Mapping[str, Any]):
    """The model and its processor, from a source and the loading options."""
    from ..load import load as load_source

    fields: dict[str, Any] = {}
    if options["extra_eos_token"]:
        fields["extra_eos_tokens"] = frozenset(options["extra_eos_token"])
    if options["tokenizer"]:
        fields["tokenizer_id"] = options["tokenizer"]
    if options["dtype"]:
        fields["dtype"] = options["dtype"]
    fields |= engine.loading(options)
    name = {"role": options["role"]} if options.get("role") else {"path_or_hf_repo": source}
    return load_source(**name, adapter_path=options["adapter_path"], revision=options["revision"], **fields)[:2]


def logit_bias(texts: tuple[str, ...]) -> dict[int, float]:
    """``ID=BIAS`` texts, or JSON objects, as a dict. Raises UsageError for anything else."""
    biases: dict[int, float] = {}
    for text in texts:
        pairs = json_object(text, "--logit-bias").items() if text.lstrip().startswith("{") else [text.rsplit("=", 1)]
        for pair in pairs:
            try:
                token, bias = pair
                biases[int(token)] = float(bias)
            except (ValueError, TypeError) as error:
                raise UsageError("not a token's id and a number", where="--logit-bias", found=repr(text),
                                 expected="ID=BIAS, such as 50256=-100") from error
    return biases


def json_object(text: str, where: str) -> dict[str, Any]:
    """The JSON object that an option holds. Raises UsageError if it is anything else."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UsageError(f"not JSON ({error})", where=where, found=repr(text[:60])) from error
    if not isinstance(value, dict):
        raise UsageError("not an object", where=where, found=text[:60], expected='JSON such as {"name": 1}')
    return value
