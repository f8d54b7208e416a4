"""`mlxlm generate`: one prompt, one answer; the text goes to standard output as it comes, the figures to stderr."""

from __future__ import annotations

import json
from typing import Any

import click

from ..errors import UsageError
from .engine_options import PROMPT_CACHE, continued, engine_options
from .group import INTERRUPTED
from .options import MODEL, ROLE, load, loading_options, parameters, sampling_options, template_options
from .prompt import conversation, model_and_prompt, read_prompt

EXAMPLES = """\b
Examples:
  mlxlm generate smolLM2_135M "Name three colours."
  mlxlm generate --model ./model --prompt "Hello" --max-tokens 100 --temp 0.7
  git diff | mlxlm generate ./model.gguf --system-prompt "Write a commit message."
  mlxlm generate ./model --messages chat.json --json
  mlxlm generate --role frontdoor "Hello"
  mlxlm generate qwen2_5VL3BInstruct4Bit --image cat.png "What is it?"
"""


@click.command(epilog=EXAMPLES, options_metavar="[OPTIONS]")
@click.argument("arguments", type=MODEL, nargs=-1, metavar="[MODEL] [PROMPT]")
@click.option("--model", type=MODEL, metavar="MODEL", help="The model, where it isn't the first argument.")
@ROLE
@click.option("-p", "--prompt", metavar="TEXT", help="The prompt, where it isn't an argument; - reads standard input.")
@click.option("--prompt-file", metavar="FILE", help="Read the prompt from a file.")
@click.option("--messages", metavar="FILE", help="Read a conversation as JSON from a file, or - for standard input.")
@click.option("--image", "images", metavar="PATH", multiple=True, help="A picture, by path or URL; may be repeated.")
@click.option("--video", "videos", metavar="PATH", multiple=True, help="A film, by path or URL; may be repeated.")
@template_options
@click.option("--prefill-response", metavar="TEXT", help="How the answer begins.")
@click.option("--ignore-chat-template", is_flag=True, help="Give the model the prompt as it is.")
@sampling_options
@engine_options
@PROMPT_CACHE
@loading_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of streaming the text.")
@click.option("--logprobs", type=click.IntRange(0, 100), metavar="N",
              help="With --json: each token's log-probability, and the N likeliest tokens in its place.")
@click.option("--verbose", type=bool, default=True, metavar="BOOL", show_default=True,
              help="False leaves out the figures at the end.")
@click.option("-q", "--quiet", is_flag=True, help="The same as --verbose false.")
def command(arguments: tuple[str, ...], model: str | None, prompt: str | None, as_json: bool, **options: Any) -> int:
    """Answer a prompt, streaming the text.

    A prompt is one user message for the model's chat template, where it has one. Without PROMPT it is read
    from standard input.
    """
    if model and options["role"]:
        raise UsageError("a model and a role were given", where="--role", expected="one of them")
    source, prompt = model_and_prompt(arguments, model or options["role"], prompt)
    text = read_prompt(prompt, options["prompt_file"], options["messages"])
    if options["logprobs"] is not None and not as_json:
        raise UsageError("only --json can show it", where="--logprobs")
    media = {kind: list(options[kind]) for kind in ("images", "videos") if options[kind]}
    chosen = {**parameters(options), **media}
    prompted = _for_template(text, options)
    loaded, processor = load(source, options)
    if prompted is None or (isinstance(text, str) and not processor.has_chat_template and not _template_asked(options)):
        asked, more = text, None
    else:
        asked, more = prompted
    if options["prompt_cache_file"]:
        asked, cached = continued(loaded, processor, asked, more, options)
        chosen |= cached
    elif more is not None:
        chosen["template_kwargs"] = more
    stream = _stream(loaded, processor, asked, chosen, options)
    if as_json:
        click.echo(json.dumps(_collected(source, stream, processor, options["logprobs"]), ensure_ascii=False))
        return 0
    return _printed(stream, figures=options["verbose"] and not options["quiet"])


def _for_template(text: str | list[dict[str, Any]], options: dict[str, Any]):
    """Messages and variables for the chat template, or None where it is not wanted."""
    if not options["ignore_chat_template"]:
        return conversation(text, options)
    if not isinstance(text, str):
        raise UsageError("messages need the chat template", where="--ignore-chat-template")
    if asked := _template_asked(options):
        raise UsageError(f"{asked} needs the chat template", where="--ignore-chat-template")
    return None


def _template_asked(options: dict[str, Any]) -> str | None:
    """The option that only a chat template can honour, if one was given."""
    names = ("system_prompt", "prefill_response", "chat_template_config")
    return next((f"--{name.replace('_', '-')}" for name in names if options[name] is not None), None)


def _stream(model, processor, prompt, chosen: dict[str, Any], options: dict[str, Any]):
    from ..generate import stream_generate

    return stream_generate(model, processor, prompt, configuration=processor.configuration,
                           top_logprobs=options["logprobs"] or 0, **chosen)


def _printed(stream, figures: bool) -> int:
    """Prints each piece as it comes and the figures at the end, also after Ctrl-C; returns the exit status."""
    ended, status = None, 0
    try:
        for piece in stream:
            thoughts(piece.reasoning)
            click.echo(piece.answer, nl=False)
            ended = piece.finish_reason
    except KeyboardInterrupt:
        status = INTERRUPTED
    click.echo()
    if figures:
        click.echo(click.style(summary(stream.stats, ended), dim=True), err=True)
    return status


def thoughts(text: str) -> None:
    """Shows reasoning, dimmed, beside standard output, which is for the answer."""
    if text:
        click.echo(click.style(text, dim=True), nl=False, err=True)


def summary(stats, ended: str | None = None) -> str:
    """One line: prompt and answer in tokens and tokens per second, peak memory, and whether the answer was cut."""
    prompt, answer = ((f"{count} tokens, {rate:.1f} tokens/s" if rate else f"{count} tokens") for count, rate in (
        (stats.prompt_tokens, stats.prompt_tps), (stats.generation_tokens, stats.generation_tps)))
    line = f"prompt {prompt} · answer {answer} · peak memory {stats.peak_memory:.2f} GB"
    if stats.draft_tokens:
        line += f" · {stats.accepted_tokens} of {stats.draft_tokens} guesses right"
    return f"{line} · cut off at --max-tokens" if ended == "length" else line


def _collected(source: str, stream, processor, logprobs: int | None) -> dict[str, Any]:
    """The whole answer as one object for JSON."""
    pieces = list(stream)
    stats = stream.stats
    answer: dict[str, Any] = {
        "model": source,
        "text": "".join(piece.answer for piece in pieces),
        "reasoning": "".join(piece.reasoning for piece in pieces),
        "finish_reason": pieces[-1].finish_reason,
        "prompt_token_ids": [int(token) for token in stream.prompt],
        "token_ids": [piece.token for piece in pieces if piece.token is not None],
        "stats": {"prompt_tokens": stats.prompt_tokens, "prompt_tps": round(stats.prompt_tps, 3),
                  "generation_tokens": stats.generation_tokens, "generation_tps": round(stats.generation_tps, 3),
                  "time_to_first_token": round(stats.time_to_first_token, 4),
                  "peak_memory": round(stats.peak_memory, 4), "cached_tokens": stats.cached_tokens,
                  "draft_tokens": stats.draft_tokens, "accepted_tokens": stats.accepted_tokens},
    }
    if logprobs is not None:
        answer["logprobs"] = [_logprob(piece, processor) for piece in pieces if piece.token is not None]
    return answer


def _logprob(piece, processor) -> dict[str, Any]:
    top = [{"id": token, "token": processor.decode([token]), "logprob": value} for token, value in piece.top_logprobs]
    return {"id": piece.token, "token": processor.decode([piece.token]), "logprob": piece.logprob, "top": top}
