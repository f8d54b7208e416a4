"""What a user may see, and nothing else: every error that an input can cause is one of these.

A message says where (file, field, argument), what is wrong, what was found and expected, and what to do next.
"""


class MLXLMError(Exception):
    """The root of all errors that a user's input can cause; the CLI prints its message and exits with 1."""

    def __init__(self, problem: str, *, where: object = None, found: object = None, expected: object = None,
                 hint: str | None = None):
        self.problem, self.where, self.found, self.expected, self.hint = problem, where, found, expected, hint
        super().__init__(self._message())

    def _message(self) -> str:
        text = f"{self.where}: {self.problem}" if self.where is not None else self.problem
        if self.found is not None:
            text += f"; found {self.found}"
        if self.expected is not None:
            text += f"; expected {self.expected}"
        if self.hint:
            text = f"{text.rstrip('.')}. {self.hint}"
        return text


class ConfigError(MLXLMError):
    """A config.json, or another settings file, that doesn't describe something we can build."""


class UnknownModelType(ConfigError):
    """A ``model_type`` that no registry row, and no fallback package, knows."""


class WeightError(MLXLMError):
    """Weights that are damaged, or that don't fit the model that the config describes."""


class SourceError(MLXLMError):
    """A model that can't be found, reached, read or written."""


class TokenizerError(MLXLMError):
    """A tokenizer that can't be built, or text that it can't take."""


class TemplateError(MLXLMError):
    """A chat template that doesn't parse, refuses the messages (then ``refused`` is true), or takes too long."""

    refused = False


class GenerationError(MLXLMError):
    """Arguments of a generation that can't be honoured."""


class MemoryLimitError(MLXLMError):
    """What needs more memory than there is, refused before it is begun."""


class BusyError(GenerationError):
    """A request that an engine has no room for now; it may have later."""


class UsageError(MLXLMError):
    """A command or argument used wrongly; the CLI exits with 2."""


class MediaError(MLXLMError):
    """An image or video that can't be fetched, read or taken, or media and prompt that don't fit each other."""
