"""Reading one architecture's metadata so that nothing in it is overlooked: what no reader took is an error."""

from typing import Any

import numpy as np

from ..errors import ConfigError
from .gguf_header import Tensor

# Keys of an architecture that say nothing a model would compute with.
SILENT = {"vocab_size", "rope.scaling.finetuned", "tensor_data_layout", "attention.causal", "embedding_length_out"}


class Keys:
    """One architecture's metadata. Whoever takes a key answers for it; ``finish`` tells of those that no one took."""

    def __init__(self, metadata: dict[str, Any], tensors: dict[str, Tensor], where: object):
        self.metadata, self.tensors, self.where = metadata, tensors, where
        self.architecture = metadata["general.architecture"]
        self.taken: set[str] = set()

    def get(self, name: str, kind: type, default: Any = None) -> Any:
        """The value of ``<architecture>.name`` as an int, float, bool or str; ConfigError if it is something else."""
        key = f"{self.architecture}.{name}"
        self.taken.add(key)
        value = self.metadata.get(key, default)
        if isinstance(value, np.ndarray) and kind is not list and len(value) and (value == value[0]).all():
            value = value[0].item()  # one value said for each layer
        if value is default or (isinstance(value, kind) and not (kind is int and isinstance(value, bool))):
            return value
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if kind is list and isinstance(value, np.ndarray):
            return value.tolist()
        raise ConfigError(f"{key} has a value that can't be right", where=self.where, found=repr(value)[:60],
                          expected=kind.__name__)

    def need(self, name: str, kind: type) -> Any:
        value = self.get(name, kind)
        if value is None:
            raise ConfigError(f"{self.architecture}.{name} is missing from the metadata", where=self.where,
                              hint="The file may have been made by a converter that is too old.")
        return value

    def has(self, tensor: str) -> bool:
        return tensor in self.tensors

    def per_layer(self, name: str, layers: int, kinds: str = "iu") -> list[Any]:
        """A number for each layer, where the metadata has one for all or a list; ``kinds`` are numpy's letters."""
        value = self.get(name, object)
        if isinstance(value, np.ndarray) and value.dtype.kind in kinds and len(value) >= layers:
            return value[:layers].tolist()
        if isinstance(value, (int, float) if "f" in kinds else int) and not isinstance(value, bool):
            return [value] * layers
        raise ConfigError(f"{self.architecture}.{name} must hold a number for each layer", where=self.where,
                          found=repr(value)[:60])

    def only(self, name: str, kind: type, value: Any) -> None:
        """Takes a key that may only hold one value."""
        if (found := self.get(name, kind, value)) != value:
            raise ConfigError(f"{self.architecture}.{name} has a value that can't be honoured", where=self.where,
                              found=found, expected=value)

    def finish(self) -> None:
        left = sorted(k for k in self.metadata if k.startswith(f"{self.architecture}.") and k not in self.taken
                      and k.partition(".")[2] not in SILENT and self.metadata[k] is not False)
        if left or self.metadata.get(f"{self.architecture}.attention.causal") is False:
            raise ConfigError("the metadata has keys that may change the numbers, and nothing here honours them",
                              where=self.where,
                              found=", ".join(left) or "attention.causal = False")
