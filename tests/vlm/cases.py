"""Every case of every family."""

from . import cases_gemma, cases_halves, cases_mllama, cases_qwen, cases_tiles

CASES = (*cases_qwen.CASES, *cases_halves.CASES, *cases_tiles.CASES, *cases_mllama.CASES, *cases_gemma.CASES)
