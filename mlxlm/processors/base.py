"""Messages and media to what a model reads: markers in the prompt become as many tokens as each image or video needs.

A family's processor says what its template writes for an image, which token keeps the places of its rows, and what
text stands around them; its image processor makes the arrays. Everything else is here.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, ClassVar, Literal

import mlx.core as mx
import numpy as np

from ..errors import ConfigError, MediaError, TemplateError, UsageError
from ..vlm import content_key
from .messages import MediaPolicy, Source, attached, collected, flattened
from .recent import Recent

Kind = Literal["image", "video"]

MOST_PLACES = 1 << 22  # of one image or video


@dataclass(frozen=True)
class Medium:
    """One image or video made ready: its arrays, by Hugging Face's names, and the text that stands for it."""

    kind: Kind
    arrays: dict[str, np.ndarray]
    text: str

    @cached_property
    def key(self) -> bytes:
        """What tells media with another content apart."""
        return content_key(self.arrays)


@dataclass(frozen=True)
class Inputs:
    """A prompt with media: token ids, and for each image or video which of them are its own, as (start, end).

    ``indivisible``: every token sees all of the prompt, so that no beginning of it means anything without the rest.
    """

    ids: list[int]
    items: tuple[tuple[int, int, Medium], ...] = ()
    join: Callable[[Sequence[Mapping[str, np.ndarray]]], dict[str, np.ndarray]] = field(
        default=lambda many: concatenated(many), repr=False)
    indivisible: bool = False

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def media(self) -> dict[str, mx.array]:
        """The arrays of all media, in Hugging Face's layout: what the model is called with."""
        found: dict[str, mx.array] = {}
        for kind in ("image", "video"):
            own = [item.arrays for _, _, item in self.items if item.kind == kind]
            found |= {name: mx.array(value) for name, value in (self.join(own) if own else {}).items()}
        return found

    @property
    def keys(self) -> list[int]:
        """As many numbers as ids, alike only where a cache would hold the same: places of media have their content's.

        Two prompts share a prefix of a cache as far as their keys are equal; cut it with `prefix`.
        """
        keys = list(self.ids)
        for start, end, item in self.items:
            own = int.from_bytes(item.key[:7], "big")
            keys[start:end] = [-1 - own - i for i in range(end - start)]  # below every token id
        return keys

    def prefix(self, n: int) -> int:
        """The longest prefix of at most ``n`` tokens that cuts no image or video."""
        if self.indivisible:
            return 0 if n < len(self.ids) else n
        return next((start for start, end, _ in self.items if start < n < end), n)

    def after(self, n: int) -> "Inputs":
        """What follows the first ``n`` tokens, with the media that stand there. ``n`` may not cut one."""
        if self.prefix(n) != n:
            raise MediaError("an image or a video can't be cut", where="prompt", found=f"token {n}")
        rest = tuple((a - n, b - n, item) for a, b, item in self.items if a >= n)
        return Inputs(self.ids[n:], rest, self.join, self.indivisible)


def concatenated(many: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Arrays of several media one after the other, along the first axis."""
    return {name: np.concatenate([one[name] for one in many]) for name in many[0]}


class Processor:
    """The tokenizer of a vision-language model, and what makes arrays of images and videos.

    Whatever a tokenizer has, this has too. A family sets ``markers`` (what its chat template writes for an image or
    video), ``places`` (the token that keeps the place of one row) and ``inline`` (what to write where the template
    takes text only), and overrides `image_text` and `video_text`.
    """

    markers: ClassVar[dict[str, str]] = {}
    places: ClassVar[dict[str, str]] = {}
    inline: ClassVar[dict[str, str]] = {}
    both_ways: ClassVar[bool] = False  # the prompt's tokens all see each other

    def __init__(self, tokenizer: Any, image_processor: Any = None, video_processor: Any = None,
                 settings: Mapping[str, Any] | None = None, config: Mapping[str, Any] | None = None):
        """``settings`` is the content of processor_config.json, ``config`` that of config.json."""
        self.tokenizer = tokenizer
        self.image_processor, self.video_processor = image_processor, video_processor
        self.settings, self.config = dict(settings or {}), dict(config or {})
        self._recent = Recent()
        self._tried: dict[tuple[str, str], bool] = {}  # what a chat template makes of the forms of a content

    def __getattr__(self, name: str) -> Any:
        if name == "tokenizer" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.tokenizer, name)

    def __len__(self) -> int:
        return len(self.tokenizer)

    @property
    def chat_template(self) -> Any:
        """The tokenizer's, which may be changed here too."""
        return self.tokenizer.chat_template

    @chat_template.setter
    def chat_template(self, template: Any) -> None:
        self.tokenizer.chat_template = template

    # What a family says

    @classmethod
    def assumed(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of image and video processor where no file has any; ``config`` is config.json's content."""
        return {}

    def image_text(self, arrays: Mapping[str, np.ndarray]) -> str:
        """What stands in the prompt for an image: as many places as it has rows, and what is around them."""
        raise NotImplementedError

    def video_text(self, arrays: Mapping[str, np.ndarray]) -> str:
        """What stands in the prompt for a video. ``join`` may leave out arrays that only this looks at."""
        raise NotImplementedError

    def room(self, count: int, kind: str = "image") -> str:
        """The text of ``count`` places. Raises ConfigError for more than any context has."""
        if not 0 <= count <= MOST_PLACES:
            raise ConfigError(f"no number of places that an {kind} can have", where="processor_config.json",
                              found=count, expected=f"at most {MOST_PLACES}")
        return self.places[kind] * count

    def join(self, many: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """The arrays of several images, or of several videos, in the layout that the model takes."""
        return concatenated(many)

    # Prompts

    def __call__(self, prompt: Any, images: Any = None, videos: Any = None, *, tools: Sequence[Any] | None = None,
                 policy: MediaPolicy | None = None, **template: Any) -> Inputs:
        """A prompt ready for the model.

        prompt: messages, whose content may have parts of type image and video, or text. Text with markers is taken as
            it is; text without them, beside media, is one message of the user.
        images, videos: sources, see `mlxlm.processors.images`. They fill the parts of messages that name no source of
            their own; without such parts they come before the last user message's text.
        policy: what sources a message may name, and how large media may be.
        Raises MediaError.
        """
        prompt, sources = self.read(prompt, images, videos)
        if isinstance(prompt, str):
            return self.inputs(prompt, sources, policy, whole=True)
        text = self._rendered(prompt, tools, template)
        return self.inputs(text, sources, policy, whole=not self.tokenizer.has_chat_template)

    def read(self, prompt: Any, images: Any = None, videos: Any = None) -> tuple[Any, list[Source]]:
        """(text, or messages as the chat template takes them, the sources of the media in it, in order)."""
        given = {"image": several(images, 4), "video": several(videos, 5)}
        if isinstance(prompt, str):
            if not any(given.values()) or self._marked(prompt):
                found = [Source(kind, x, True, f"{kind}s") for kind in given for x in given[kind]]
                return prompt, self._in_order(prompt, found)
            prompt = [{"role": "user", "content": prompt}]
        messages, sources = collected(attached(prompt, given))
        if not self.tokenizer.has_chat_template and len(messages) == 1:
            return flattened(messages, {kind: self._inline(kind) for kind in self.markers})[0]["content"], sources
        return self._for_template(messages), sources

    def _in_order(self, text: str, sources: list[Source]) -> list[Source]:
        """Sources in the order in which the text's markers name their kinds."""
        queues = {kind: [s for s in sources if s.kind == kind] for kind in ("image", "video")}
        kinds = [kind for kind, _ in self._marked(text)]
        ordered = [queues[kind].pop(0) for kind in kinds if queues[kind]]
        return ordered + queues["image"] + queues["video"]

    def _rendered(self, messages: list[dict[str, Any]], tools: Sequence[Any] | None, more: dict[str, Any]) -> str:
        more = {"add_generation_prompt": True, **more}
        return self.tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, **more)

    def _for_template(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Messages in the one of two forms that the chat template takes: lists of parts, or text."""
        if self._takes_parts:
            return messages if self._takes_text else [_with_parts(m) for m in messages]
        return flattened(messages, {kind: self._inline(kind) for kind in self.markers})

    def _inline(self, kind: str) -> str:
        return self.inline.get(kind, self.markers[kind])

    @property
    def _takes_parts(self) -> bool:
        """Whether the chat template writes what a content that is a list of parts says."""
        return self._writes([{"type": "text", "text": _PROBE}])

    @property
    def _takes_text(self) -> bool:
        """Whether the chat template writes a content that is text."""
        return self._writes(_PROBE)

    def _writes(self, content: Any) -> bool:
        key = (str(self.tokenizer.chat_template), str(content))
        if key not in self._tried:
            self._tried[key] = self._tries(content)
        return self._tried[key]

    def _tries(self, content: Any) -> bool:
        try:
            text = self.tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
        except (TemplateError, UsageError):
            return False
        return _PROBE in text and f"'{_PROBE}'" not in text and f'"{_PROBE}"' not in text

    # Media

    def _marked(self, text: str) -> list[tuple[str, re.Match]]:
        """(kind, match) of each marker in the text."""
        names = {marker: kind for kind, marker in self.markers.items()}
        pattern = "|".join(re.escape(m) for m in sorted(names, key=len, reverse=True))
        return [(names[m[0]], m) for m in re.finditer(pattern, text)] if names else []

    def inputs(self, text: str, sources: Sequence[Source] = (), policy: MediaPolicy | None = None, *,
               whole: bool = False) -> Inputs:
        """A rendered prompt as token ids, with its media. ``whole``: it is a plain text, which may need a BOS."""
        policy = policy or MediaPolicy()
        if len(sources) > policy.max_items:
            raise MediaError("too many images and videos", where="prompt", found=len(sources),
                             expected=f"at most {policy.max_items}")
        marked = self._marked(text)
        self._check_counts(marked, sources)
        return self._read(text, [match for _, match in marked], self._media(sources, policy), whole)

    def _read(self, text: str, marked: list[re.Match], media: list[Medium], whole: bool) -> Inputs:
        """Token ids, with what stands for the media in the places of their markers."""
        pieces, at = [], 0
        for match, medium in zip(marked, media, strict=True):
            pieces += [text[at : match.start()], medium.text]
            at = match.end()
        text = "".join([*pieces, text[at:]])
        ids = self.tokenizer.encode_prompt(text) if whole else self.tokenizer.encode(text, add_special_tokens=False)
        return Inputs(ids, self._spans(ids, media), self.join, self.both_ways)

    def _check_counts(self, marked: list[tuple[str, re.Match]], sources: Sequence[Source]) -> None:
        for kind in ("image", "video"):
            room, given = (sum(k == kind for k, _ in marked), sum(s.kind == kind for s in sources))
            if given and kind not in self.markers:
                raise MediaError(f"the model takes no {kind}s", where=f"{kind}s", found=given)
            if room != given:
                raise MediaError(
                    f"as many {kind}s are needed as the prompt has markers for them", where=f"{kind}s", found=given,
                    expected=f"{room} ({self.markers[kind]})",
                    hint="A marker in the text of a message counts too." if room > given else
                         "The chat template left some of them out." if not room else None)

    def _media(self, sources: Sequence[Source], policy: MediaPolicy) -> list[Medium]:
        made = []
        for source in sources:
            settings = str(vars(self.image_processor if source.kind == "image" else self.video_processor))
            made.append(self._recent.get(source, policy, settings, partial(self._medium, source, policy)))
        return made

    def _medium(self, source: Source, policy: MediaPolicy) -> Medium:
        if source.kind == "image":
            from .images import open_image

            image = open_image(source, policy)
            with settings_that_fit("image"):
                arrays = self.image_processor([image])
                return Medium("image", arrays, self.image_text(arrays))
        from .videos import open_video

        clip = open_video(source, policy, self.video_processor)
        with settings_that_fit("video"):
            arrays = self.video_processor(clip)
            return Medium("video", arrays, self.video_text(arrays))

    def _spans(self, ids: list[int], media: list[Medium]) -> tuple[tuple[int, int, Medium], ...]:
        """Which tokens are each medium's: from its first place to its last."""
        places = {token: self.tokenizer.token_to_id(token) for token in self.places.values()}
        known = set(places.values())
        at = [i for i, token in enumerate(ids) if token in known]
        spans, start = [], 0
        for medium in media:
            count = medium.text.count(self.places[medium.kind])
            own = at[start : start + count]
            if len(own) < count or not own:
                break
            spans.append((own[0], own[-1] + 1, medium))
            start += count
        if start != len(at) or len(spans) != len(media):
            raise MediaError("the tokenizer doesn't read the places of media as tokens of their own", where="prompt",
                             found=f"{len(at)} of {', '.join(places)}")
        return tuple(spans)


_PROBE = "the template's probe"


@contextmanager
def settings_that_fit(kind: str) -> Iterator[None]:
    """Whatever a damaged preprocessor_config.json leads to becomes a ConfigError."""
    try:
        yield
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, MemoryError) as error:
        raise ConfigError(f"no {kind} can be processed by these settings ({type(error).__name__}: {str(error)[:100]})",
                          where=f"{'preprocessor' if kind == 'image' else 'video_preprocessor'}_config.json") from error


def several(given: Any, axes: int) -> list[Any]:
    """One or several sources as a list; an array of ``axes`` axes is several, and a list of pictures one video."""
    if given is None:
        return []
    if getattr(given, "ndim", None) == axes:
        return list(given)
    if isinstance(given, (list, tuple)) and axes == 5 and given and _is_picture(given[0]):
        return [list(given)]
    return list(given) if isinstance(given, (list, tuple)) else [given]


def _is_picture(value: Any) -> bool:
    return getattr(value, "ndim", None) == 3 or hasattr(value, "getbbox")


def _with_parts(message: dict[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    return {**message, "content": [{"type": "text", "text": content}]} if isinstance(content, str) else message
