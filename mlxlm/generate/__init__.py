"""Generation: a prompt to tokens (`generate_step`), text (`stream_generate`) or an answer (`generate`)."""
from .logits import LogitsProcessor, make_logits_processors
from .loop import TokenIterator, generate_step
from .prefix_store import PrefixStore
from .prompt_cache import load_prompt_cache, save_prompt_cache
from .sample import Sampler, make_sampler
from .stream import GenerateParameters, GenerationStats, Piece, TextStream, generate, stream_generate

__all__ = ["GenerateParameters", "GenerationStats", "LogitsProcessor", "Piece", "PrefixStore", "Sampler", "TextStream",
           "TokenIterator", "generate", "generate_step", "load_prompt_cache", "make_logits_processors", "make_sampler",
           "save_prompt_cache", "stream_generate"]
