"""A prefix store's part in one generation: what was read before, and where to leave checkpoints for the next."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from ..cache import Checkpoint, State
from ..cache.radix import common
from ..errors import GenerationError, MLXLMError
from ..tools.functions import tool_schemas
from .checks import shown
from .prefix_store import PrefixStore, model_key, plain
from .prompt import is_messages


class Reuse:
    """``keys`` are the whole prompt's, of which the cache holds the first ``read`` already.

    borders: places in the prompt where a turn ends, at which the next one may leave the common way.
    """

    def __init__(self, store: PrefixStore, key: str, keys: Sequence[int], read: int,
                 borders: Iterable[int] = ()):
        self.store, self.key, self.read = store, key, read
        self._keys = list(keys)
        last = len(self._keys) - 1
        self._borders = {b for b in [*borders, last] if read < b <= last}
        self._checkpoints: dict[int, Checkpoint] = {}

    def stopping(self, chunks: Iterable[tuple[int, int]],
                 divides: Callable[[int], bool] = lambda at: True) -> Iterator[tuple[int, int]]:
        """(start, end) of stretches of what is read now, which end wherever a checkpoint may be left too.

        ``divides`` says whether a stretch may end before a token.
        """
        done, every = self.read, self.store.every
        for start, end in chunks:
            regular = range(-(-(start + done + 1) // every) * every, end + done, every)
            for stop in sorted({*regular, *(b for b in self._borders if start + done < b < end + done)}):
                if divides(stop - done):
                    yield start, stop - done
                    start = stop - done
            yield start, end

    def note(self, state: Any) -> None:
        """After each stretch: a checkpoint at a border, and every so many tokens."""
        if not isinstance(state, State) or not (state.offset in self._borders or state.offset % self.store.every == 0):
            return
        if type(state) is not State and state.can_trim(state.offset):
            return  # another package's: a checkpoint would copy all of it
        checkpoint = state.checkpoint()
        if not plain(state) or any(mark is not None for mark in checkpoint.layers):
            self._checkpoints[state.offset] = checkpoint

    def finish(self, state: Any, tokens: Sequence[int]) -> None:
        """Keeps what the cache holds by now."""
        if isinstance(state, State):
            self.store.insert(self.key, [*self._keys, *tokens][: state.offset], state, self._checkpoints)


def begin(model: Any, prompt: Any, parameters: Any, border: int | None = None) -> tuple[Any, State, Reuse]:
    """(what is left to be read of a `Prompt`, its cache, the `Reuse`). Raises GenerationError for a wrong store."""
    store = parameters.prefix_store
    if not isinstance(store, PrefixStore):
        raise GenerationError("not a PrefixStore", where="prefix_store", found=shown(store))
    if parameters.cache is not None:
        raise GenerationError("a cache was given, so prefix_store would have no effect", where="prefix_store",
                              hint="Give one or the other.")
    key, keys = model_key(model, settings_of(parameters)), prompt.keys
    state, reused = store.fetch(key, keys)
    while (whole := prompt.border(reused)) < reused:  # within an image
        state, reused = store.fetch(key, keys[: whole + 1])
    if state is None:
        size = parameters.max_kv_size
        state = model.make_cache() if size is None else model.make_cache(max_kv_size=size)
    rest = prompt.after(reused) if reused else prompt
    return rest, state, Reuse(store, key, keys, reused, [] if border is None else [border])


def settings_of(parameters: Any) -> str:
    """What of a generation's parameters shapes its cache: memories of other settings are other memories."""
    names = ("max_kv_size", "kv_bits", "kv_group_size", "quantized_kv_start")
    return " ".join(str(getattr(parameters, name)) for name in names)


def turn_border(tokenizer: Any, prompt: Any, parameters: Any, ids: np.ndarray) -> int | None:
    """How many ids of a rendered prompt belong to its messages: the rest only opens the answer."""
    if parameters.prefix_store is None or parameters.images or parameters.videos or not is_messages(prompt):
        return None
    tools = tool_schemas(parameters.tools)
    variables = {**(parameters.template_kwargs or {}), "add_generation_prompt": False}
    try:
        bare = tokenizer.apply_chat_template(list(prompt), tools=tools, tokenize=True, **variables)
    except MLXLMError:
        return None  # a template may refuse to end there
    return common(np.asarray(bare), ids)
