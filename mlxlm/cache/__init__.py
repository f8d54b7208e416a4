"""What a conversation leaves behind, layer by layer; a module never holds any of it."""

from .base import LayerCache, NoCache
from .composite import CompositeCache
from .kv import KVCache
from .recurrent import RecurrentCache
from .sliding import ChunkedCache, SlidingCache
from .state import Checkpoint, State

__all__ = [
    "Checkpoint",
    "ChunkedCache",
    "CompositeCache",
    "KVCache",
    "LayerCache",
    "NoCache",
    "RecurrentCache",
    "SlidingCache",
    "State",
]
