"""What a caller may ask of one generation: the keywords of `stream_generate` and their defaults."""
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from ..errors import GenerationError
from .checks import function, integer, several, shown, unknown
from .logits import LogitsProcessor, make_logits_processors
from .sample import Sampler, make_sampler
from .tool_choice import chosen_tool

ALIASES = {"temp": "temperature", "prompt_cache": "cache", "thinking": "enable_thinking"}
"""Other names that parameters go by: mlx-lm's, and some templates'."""


_SAMPLING = ("temperature", "top_p", "min_p", "min_tokens_to_keep", "top_k", "xtc_probability",
             "xtc_threshold", "xtc_special_tokens", "seed")
_PENALTIES = ("logit_bias", "repetition_penalty", "repetition_context_size", "presence_penalty",
              "presence_context_size", "frequency_penalty", "frequency_context_size")
_LOOP = ("max_tokens", "cache", "max_kv_size", "kv_bits", "kv_group_size", "quantized_kv_start",
         "prefill_step_size", "prompt_progress_callback", "beyond_context", "memory_limit")


@dataclass(frozen=True, kw_only=True)
class GenerateParameters:
    """The keywords of one generation; see also `make_sampler`, `make_logits_processors`, `TokenIterator`.

    max_tokens: how many tokens at most; -1 or None for as many as the context holds.
    stop: a string, or several: text from the first of them on is dropped, and generation ends.
    sampler: instead of the sampling parameters, not together with them.
    logits_processors: run after those that the penalties make.
    cancel: a threading.Event, or a function that returns a bool: ends generation between two tokens.
    prefix_store: a `PrefixStore`, which gives a cache for the beginning that it knows and keeps this one's.
    draft: a smaller model, what `load` gave for one, "lookup" or "mtp": guesses tokens that are then read in one pass.
        False for none, though the model was loaded with one. The answer is the same.
    num_draft_tokens: how many tokens to guess at most; fewer where guesses turn out wrong.
    prompt_lookup: guess what followed the last few tokens when they stood in the text before.
    top_logprobs: each piece lists so many of the likeliest tokens.
    memory_limit: bytes that MLX may hold ("12G"), or "off": a prompt that has no room is refused.
    response_format: what the answer must be: a JSON schema, a type, a pattern, choices, a grammar; see `as_grammars`.
    images, videos: one or several, for a vision-language model; see docs/vision.md for what each may be. They fill the
        parts of messages that name no source of their own, else come before the text of the user's last message.
    media_policy: a `MediaPolicy`: what media a message may name, and how large they may be.
    template_kwargs: further variables of the chat template, where the prompt is a list of messages.
    tools: what the model may call: functions, pydantic models, or JSON schemas (dicts).
    tool_choice: "auto"; "none" to leave the tools out of this answer; "required" for calls and nothing else; or the
        name of the one tool to call. A tool with ``strict`` is held to its schema under "auto" too.
    enable_thinking: turns the model's reasoning on or off, by whatever name its chat template has for that.
    reasoning_budget: after so many tokens of reasoning its end is written, and the answer begins.
    parse: whether reasoning and calls are told apart from the text; None: where the prompt is a list of messages.
    """

    max_tokens: int | None = 256
    temperature: float = 0.0
    top_p: float = 0.0
    min_p: float = 0.0
    min_tokens_to_keep: int = 1
    top_k: int = 0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    xtc_special_tokens: Sequence[int] | None = None
    seed: int | None = None
    logit_bias: Mapping[int, float] | None = None
    repetition_penalty: float | None = None
    repetition_context_size: int | None = 20
    presence_penalty: float | None = None
    presence_context_size: int | None = 20
    frequency_penalty: float | None = None
    frequency_context_size: int | None = 20
    stop: str | Sequence[str] = ()
    sampler: Sampler | None = None
    logits_processors: Sequence[LogitsProcessor] | None = None
    cache: Any = None
    max_kv_size: int | None = None
    kv_bits: int | None = None
    kv_group_size: int = 64
    quantized_kv_start: int = 5000
    prefix_store: Any = None
    draft: Any = None
    num_draft_tokens: int | None = None
    prompt_lookup: Any = False
    prefill_step_size: int = 512
    prompt_progress_callback: Callable[[int, int], Any] | None = None
    beyond_context: bool = False
    cancel: Any = None
    top_logprobs: int = 0
    memory_limit: int | str | None = None
    response_format: Any = None
    tools: Sequence[Any] | None = None
    tool_choice: Any = "auto"
    enable_thinking: bool | None = None
    reasoning_budget: int | None = None
    parse: bool | None = None
    template_kwargs: Mapping[str, Any] | None = None
    images: Any = None
    videos: Any = None
    media_policy: Any = None

    def __post_init__(self):
        integer("top_logprobs", self.top_logprobs, 0)
        if self.num_draft_tokens is not None:
            integer("num_draft_tokens", self.num_draft_tokens, 1)
        function("cancel", getattr(self.cancel, "is_set", self.cancel))
        self._check_chat()
        if self.sampler is not None and (also := [name for name in _SAMPLING if self._is_set(name)]):
            raise GenerationError(f"a sampler was given, so {', '.join(also)} would have no effect",
                                  where="sampler", hint="Give one or the other.")

    def _check_chat(self) -> None:
        if self.reasoning_budget is not None:
            integer("reasoning_budget", self.reasoning_budget, 0)
        for name in ("enable_thinking", "parse"):
            if not isinstance(getattr(self, name), bool | None):
                raise GenerationError("neither True nor False", where=name, found=shown(getattr(self, name)))
        chosen_tool(self.tool_choice)
        if self.template_kwargs is not None and not isinstance(self.template_kwargs, Mapping):
            raise GenerationError("not a mapping", where="template_kwargs", found=shown(self.template_kwargs))

    @classmethod
    def of(cls, keywords: Mapping[str, Any]) -> "GenerateParameters":
        """Parameters from keywords, mlx-lm's names included. Raises GenerationError for unknown ones."""
        names = {field.name for field in fields(cls)}
        values: dict[str, Any] = {}
        for name, value in keywords.items():
            own = ALIASES.get(name, name)
            if own not in names:
                raise unknown("argument", name, names)
            if own in values:
                raise GenerationError("given twice", where=own, found=f"{own} and its other name")
            values[own] = value
        return cls(**values)

    def make_sampler(self) -> Sampler:
        if self.sampler is not None:
            return self.sampler
        values = {name: getattr(self, name) for name in _SAMPLING}
        return make_sampler(values.pop("temperature"), **values)

    def make_logits_processors(self) -> list[LogitsProcessor]:
        own = make_logits_processors(**{name: getattr(self, name) for name in _PENALTIES})
        return own + several("logits_processors", self.logits_processors, "functions")

    def make_constraint(self, tokenizer: Any, ends: Iterable[int], frame: Any = None) -> Any:
        """What `response_format` and `tool_choice` hold the answer to, or None; ``ends`` are the ids that end it.

        ``frame`` is the `Frame` of a prompt that is answered with reasoning or calls.
        """
        plain = self.response_format is None and self.tool_choice in ("auto", "none")
        if plain and (frame is None or not frame.tools):
            return None
        from .constrain_answer import answer_constraint

        return answer_constraint(tokenizer, ends, self.response_format, self.tool_choice, frame)

    def loop_arguments(self) -> dict[str, Any]:
        """The keywords of `TokenIterator`."""
        return {"sampler": self.make_sampler(), "logits_processors": self.make_logits_processors(),
                "cancel": self.cancelled, **{name: getattr(self, name) for name in _LOOP}}

    def cancelled(self) -> bool:
        ask = getattr(self.cancel, "is_set", self.cancel)
        return ask is not None and bool(ask())

    def stop_strings(self) -> list[str]:
        strings = [self.stop] if isinstance(self.stop, str) else several("stop", self.stop, "strings")
        for string in strings:
            if not isinstance(string, str) or not string:
                raise GenerationError("not a stop string", where="stop", found=shown(string),
                                      expected="strings of at least one character")
        return strings

    def _is_set(self, name: str) -> bool:
        return getattr(self, name) != type(self).__dataclass_fields__[name].default
