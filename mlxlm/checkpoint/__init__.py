"""What a model is loaded from: a folder of safetensors or one GGUF file, behind one small face."""

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import mlx.core as mx

from ..errors import SourceError


@runtime_checkable
class Checkpoint(Protocol):
    """``config`` is config.json's content, with ``quantization`` as mlx-lm writes it.

    ``is_mlx`` says that names and values are in MLX's layout already, so that only names are looked over;
    ``narrow_groups`` is how many groups of weights have float16 scales though their numbers are float32.
    """

    path: Path
    config: dict[str, Any]

    @property
    def generation_config(self) -> dict[str, Any] | None: ...

    @property
    def is_mlx(self) -> bool: ...

    @property
    def narrow_groups(self) -> int: ...

    def load_weights(self) -> dict[str, mx.array]:
        """Every tensor by name, lazily read. Raises WeightError for a file that is damaged."""
        ...

    def file_of(self, name: str) -> Path | None:
        """The file of a tensor or of a module's tensors, where there are several; None where that says nothing."""
        ...

    def tokenizer_parts(self) -> Any:
        """The tokenizer where the checkpoint itself holds it (GGUF), else None."""
        ...


def open_checkpoint(path: str | Path, *, all_files: bool = False) -> Checkpoint:
    """Opens a folder or a .gguf file. ``all_files`` reads every safetensors file there is, whatever an index says."""
    path = Path(path)
    if path.is_file() and path.suffix == ".gguf":
        from .gguf import open_gguf

        return open_gguf(path)
    if path.is_dir():
        from .safetensors import Folder

        return Folder(path, all_files=all_files)
    raise SourceError("there is no model here", where=path, expected="a folder with config.json, or a .gguf file")
