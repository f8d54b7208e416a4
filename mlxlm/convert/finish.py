"""What follows a conversion: its quality measured, its card written, its folder uploaded."""

from __future__ import annotations

from typing import Any

from ..errors import SourceError
from .card import card
from .measure import Quality, quality
from .run import Conversion


def finish(conversion: Conversion, *, measure: bool = False, revision: str | None = None,
           upload: str | None = None) -> Quality | None:
    """Writes the model card beside the weights, with measured figures where ``measure`` asks for them.

    ``upload`` names a repository on the hub that the folder goes to. Raises SourceError where the hub refuses.
    """
    from ..files import write_text

    found = _measured(conversion, revision) if measure else None
    text = card(conversion, found, revision=revision, name=upload)
    write_text(conversion.folder / "README.md", text)
    if upload is not None:
        _upload(conversion, upload)
    return found


def _measured(conversion: Conversion, revision: str | None) -> Quality:
    from ..load import load

    source, _ = load(conversion.source, revision=revision)[:2]
    model, processor = load(conversion.folder)[:2]
    return quality(model, getattr(processor, "tokenizer", processor), source)


def _upload(conversion: Conversion, repo: str) -> None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api: Any = HfApi()
    try:
        api.create_repo(repo, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=str(conversion.folder))
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise SourceError(f"the upload failed: {error}".splitlines()[0], where=repo,
                          hint="Log in with `hf auth login`, and check the name and your rights.") from error
