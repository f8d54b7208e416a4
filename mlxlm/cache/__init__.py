"""What a conversation leaves behind, layer by layer; a module never holds any of it."""

from .composite import CompositeCache
from .kv import KVCache
from .recurrent import RecurrentCache
from .sliding import SlidingCache
from .state import NoCache, State

__all__ = ["CompositeCache", "KVCache", "NoCache", "RecurrentCache", "SlidingCache", "State"]
