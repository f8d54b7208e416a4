"""Generation: a prompt to tokens (`generate_step`), text (`stream_generate`) or an answer (`generate`)."""
from .logits import LogitsProcessor, make_logits_processors
from .loop import TokenIterator, generate_step
from .sample import Sampler, make_sampler
from .stream import GenerateParameters, GenerationStats, Piece, TextStream, generate, stream_generate

__all__ = ["GenerateParameters", "GenerationStats", "LogitsProcessor", "Piece", "Sampler", "TextStream",
           "TokenIterator", "generate", "generate_step", "make_logits_processors", "make_sampler",
           "stream_generate"]
