"""Every case of every family."""

from . import cases_deepseek, cases_fastvlm, cases_gemma, cases_halves, cases_mllama, cases_qwen, cases_tiles

FAMILIES = (cases_deepseek, cases_qwen, cases_halves, cases_tiles, cases_mllama, cases_gemma, cases_fastvlm)
CASES = tuple(case for family in FAMILIES for case in family.CASES)
