"""What a conversation leaves behind, layer by layer; a module never holds any of it."""

from .base import LayerCache, NoCache
from .composite import CompositeCache
from .cross import CrossCache
from .kv import KVCache
from .policy import CachePolicy, LayerStatus, bounded, cache_status
from .quantized import Packed, QuantizedKVCache
from .recurrent import RecurrentCache
from .sliding import ChunkedCache, SlidingCache
from .state import Checkpoint, State

__all__ = [
    "CachePolicy",
    "Checkpoint",
    "ChunkedCache",
    "CompositeCache",
    "CrossCache",
    "KVCache",
    "LayerCache",
    "LayerStatus",
    "NoCache",
    "Packed",
    "QuantizedKVCache",
    "RecurrentCache",
    "SlidingCache",
    "State",
    "bounded",
    "cache_status",
]
