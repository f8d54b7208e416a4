"""Where images and videos come into a generation: the processor reads them, and a model of text refuses them."""
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import MediaError
from ..processors.base import Inputs
from ..processors.messages import part_kind
from .loop import token_ids


class Encoding:
    """Text to ids. With the sources of media it keeps, as ``media``, what the processor made of them."""

    def __init__(self, tokenizer: Any, processor: Any = None, sources: Sequence[Any] = (), policy: Any = None):
        self._tokenizer, self._processor = tokenizer, processor
        self._sources, self._policy = list(sources), policy
        self.media: Any = None

    def ids(self, text: str, whole: bool = False) -> np.ndarray:
        """The ids of a prompt, int32 (length,); ``whole`` for a plain text, which may need a BOS."""
        if self._processor is None:
            encode = self._tokenizer.encode_prompt if whole else self._encode
            return token_ids(encode(text))
        inputs = self._processor.inputs(text, self._sources, self._policy, whole=whole)
        self.media = inputs if inputs.items else None
        return token_ids(inputs.ids, places=self.media is not None)

    def rendered(self, render: Callable[..., Any]) -> np.ndarray:
        """The ids of a chat template's prompt; ``render(tokenize=…)`` gives its ids or its text."""
        return token_ids(render(tokenize=True)) if self._processor is None else self.ids(render(tokenize=False))

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False)


def with_media(processor: Any, tokenizer: Any, prompt: Any, parameters: Any) -> tuple[Any, Encoding]:
    """(the prompt as the chat template or the tokenizer takes it, how its text is encoded). Raises MediaError."""
    images, videos = parameters.images, parameters.videos
    given = images is not None or videos is not None
    readable = isinstance(prompt, str) or _is_messages(prompt)
    if not readable and not given and isinstance(prompt, Inputs):  # what a processor made: `Inputs`
        reading = Encoding(tokenizer)
        reading.media = prompt if prompt.items else None
        return prompt.ids, reading
    if not hasattr(processor, "read"):
        if (given and (images or videos or images is None)) or (_is_messages(prompt) and _has_media(prompt)):
            raise MediaError("the model reads text only", where="images" if images else "prompt",
                             hint="Load a vision-language model, without text_only.")
        return prompt, Encoding(tokenizer)
    if not readable:
        if given:
            raise MediaError("media go with text or messages, which say where they stand", where="prompt",
                             found=type(prompt).__name__)
        return prompt, Encoding(tokenizer)
    prompt, sources = processor.read(prompt, images, videos)
    return prompt, Encoding(tokenizer, processor, sources, parameters.media_policy)


def _is_messages(prompt: Any) -> bool:
    return (isinstance(prompt, Sequence) and not isinstance(prompt, str) and len(prompt) > 0
            and isinstance(prompt[0], Mapping))


def _has_media(messages: Sequence[Any]) -> bool:
    contents = [m.get("content") for m in messages if isinstance(m, Mapping)]
    return any(part_kind(part) for content in contents if isinstance(content, (list, tuple)) for part in content)
