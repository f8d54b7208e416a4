"""A folder of safetensors: which files count, and headers checked byte by byte before anything is trusted."""

import json
import math
import struct
from pathlib import Path
from typing import Any

import mlx.core as mx

from ..errors import SourceError, WeightError
from ..files import read_object
from ..kernels import pages

MOST_HEADER = 100_000_000  # the format's own limit, in bytes
BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "U16": 16,
    "I16": 16,
    "F16": 16,
    "BF16": 16,
    "U32": 32,
    "I32": 32,
    "F32": 32,
    "U64": 64,
    "I64": 64,
    "F64": 64,
}
PULL_AGAIN = "The file is damaged or the download incomplete: pull the model again."


class Folder:
    """A model folder as Hugging Face and mlx-lm write it."""

    narrow_groups = 0

    def __init__(self, path: str | Path, *, all_files: bool = False):
        self.path = Path(path)
        self._all_files = all_files
        self._missing: list[str] = []
        hint = _config_hint(self.path)
        self.config: dict[str, Any] = read_object(self.path / "config.json", required=True, hint=hint) or {}
        self.generation_config = read_object(self.path / "generation_config.json")
        self._files: list[Path] | None = None
        self._headers: dict[Path, tuple[dict[str, Any], int]] = {}

    @property
    def files(self) -> list[Path]:
        """The weight files: those of an index that is whole, else model*, weight*, or any .safetensors."""
        if self._files is None:
            self._files, self._missing = select(self.path, self._all_files)
        return self._files

    @property
    def missing_files(self) -> list[str]:
        """Files that the index names and that aren't there; the index was then not believed."""
        return self._missing if self.files else []

    def header(self, file: Path) -> dict[str, Any]:
        """A file's header, checked: tensor name to dtype, shape and data_offsets."""
        return self._opened(file)[0]

    def _opened(self, file: Path) -> tuple[dict[str, Any], int]:
        if file not in self._headers:
            self._headers[file] = _open(file)
        return self._headers[file]

    @property
    def names(self) -> list[str]:
        """The names of all tensors, as they stand in the files."""
        return [name for file in self.files for name in self.header(file) if name != "__metadata__"]

    @property
    def is_mlx(self) -> bool:
        metadata = self.header(self.files[0]).get("__metadata__")
        return isinstance(metadata, dict) and metadata.get("format") == "mlx"

    def load_weights(self) -> dict[str, mx.array]:
        """Every tensor by name, lazily read. Raises WeightError for a damaged file or a name that comes twice."""
        weights: dict[str, mx.array] = {}
        for file in self.files:
            header, start = self._opened(file)
            try:
                loaded = pages.read(file, header, start) or mx.load(str(file), format="safetensors")
            except (RuntimeError, ValueError) as e:
                raise WeightError(f"MLX can't read it ({e})", where=file, hint=PULL_AGAIN) from e
            if twice := sorted(set(weights) & set(loaded)):
                raise WeightError("tensors stand in two files", where=file, found=", ".join(twice[:5]))
            weights.update(loaded)  # type: ignore[arg-type]
        return weights

    def file_of(self, name: str) -> Path | None:
        """The file of a tensor, of a module's tensors, or of those beside one that isn't there; None without any."""
        for start in (name, f"{name}.", f"{name.rpartition('.')[0]}."):
            for file in self.files:
                if any(held == name or (start != name and held.startswith(start)) for held in self.header(file)):
                    return file
        return None

    def tokenizer_parts(self) -> Any:
        """None: the tokenizer lies beside the weights, in files of its own."""
        return None


def _config_hint(path: Path) -> str:
    if list(path.glob("*.gguf"))[:1]:
        return "The folder holds GGUF files: give the path of one."
    if list(path.glob("*/config.json"))[:1]:
        return f"Did you mean {next(path.glob('*/config.json')).parent}?"
    return "A model folder holds config.json, *.safetensors and tokenizer files."


def select(path: Path, all_files: bool = False) -> tuple[list[Path], list[str]]:
    """(weight files of a folder, files that its index names in vain). Raises SourceError where there are none."""
    missing: list[str] = []
    if not all_files:
        named = _index(path)
        missing = sorted(name for name in named if not (path / name).is_file())
        if named and not missing:
            return [path / name for name in sorted(named)], []
    patterns = ("*.safetensors",) if all_files else ("model*.safetensors", "weight*.safetensors", "*.safetensors")
    for pattern in patterns:
        if files := sorted(p for p in path.glob(pattern) if p.is_file()):
            return files, missing
    if missing:
        raise SourceError(
            "files that the index names are missing",
            where=path / "model.safetensors.index.json",
            found=", ".join(missing[:5]),
            hint="The download is incomplete: pull the model again.",
        )
    pickles = [p.name for pattern in ("*.bin", "*.pt", "*.pth") for p in path.glob(pattern)]
    if pickles:
        raise SourceError(
            "the weights are PyTorch pickles, which can run code when opened, so they aren't read",
            where=path / pickles[0],
            hint="Use a revision with .safetensors files, or save it again with transformers.",
        )
    raise SourceError(
        "there are no weights here",
        where=path,
        expected="*.safetensors",
        hint="The download may be incomplete: pull the model again.",
    )


def _index(path: Path) -> set[str]:
    """The files that model.safetensors.index.json names; empty where there is none."""
    file = path / "model.safetensors.index.json"
    index = read_object(file)
    if index is None:
        return set()
    names = index.get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(v, str) for v in names.values()):
        raise WeightError("weight_map must map tensor names to file names", where=file)
    root = path.resolve()
    for name in set(names.values()):
        parts = Path(name).parts
        # A hub cache links each file to a blob elsewhere; the name itself is what may not lead out.
        if not name or "\0" in name or Path(name).is_absolute() or ".." in parts:
            raise WeightError(
                "the index names a file outside the model's folder",
                where=file,
                found=repr(name),
                expected=f"a file in {root}",
            )
    return set(names.values())


def read_header(file: Path) -> dict[str, Any]:
    """The header of a safetensors file; WeightError unless every tensor lies within the file as it says."""
    return _open(file)[0]


def _open(file: Path) -> tuple[dict[str, Any], int]:
    """(a file's header, checked, where the tensors begin)."""
    try:
        size = file.stat().st_size
        with file.open("rb") as f:
            raw = f.read(8)
            length = struct.unpack("<Q", raw)[0] if len(raw) == 8 else -1
            if not 0 <= length <= min(MOST_HEADER, size - 8):
                raise WeightError(
                    "the header's length can't be right",
                    where=file,
                    found=f"{length} bytes in a file of {size}",
                    hint=PULL_AGAIN,
                )
            text = f.read(length)
    except OSError as e:
        raise SourceError(f"the file can't be read ({e.strerror})", where=file) from e
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise WeightError("the header isn't JSON", where=file, hint=PULL_AGAIN) from e
    if not isinstance(header, dict):
        raise WeightError("the header isn't a JSON object", where=file, hint=PULL_AGAIN)
    room = size - 8 - length
    for name, entry in header.items():
        if name != "__metadata__":
            _check_entry(file, name, entry, room)
    return header, 8 + length


def _check_entry(file: Path, name: str, entry: Any, room: int) -> None:
    where = f"{file}: {name}"
    if not isinstance(entry, dict):
        raise WeightError("the header's entry isn't an object", where=where)
    shape, offsets, dtype = entry.get("shape"), entry.get("data_offsets"), entry.get("dtype")
    if not isinstance(dtype, str) or dtype not in BITS:
        raise WeightError("a dtype that isn't known", where=where, found=repr(dtype), expected=", ".join(BITS))
    if not (_whole(shape) and _whole(offsets) and len(offsets) == 2):  # type: ignore[arg-type]
        raise WeightError(
            "shape and data_offsets must be lists of whole numbers", where=where, found=f"{shape}, {offsets}"
        )
    start, end = offsets  # type: ignore[misc]
    if not start <= end <= room:
        raise WeightError(
            "the tensor lies beyond the file's end",
            where=where,
            found=f"bytes {start} to {end} of {room}",
            hint=PULL_AGAIN,
        )
    expected = math.prod(shape) * BITS[dtype] // 8  # type: ignore[arg-type]
    if expected != end - start:
        raise WeightError(
            "shape and dtype don't fit the bytes",
            where=where,
            found=f"{end - start} bytes",
            expected=f"{expected} for {dtype} {shape}",
        )


def _whole(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(v, int) and not isinstance(v, bool) and v >= 0 for v in values)
