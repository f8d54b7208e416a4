"""The rows of the parity matrix, a module for each group of types; every module's CASES are collected here."""

from importlib import import_module
from pkgutil import iter_modules

CASES = [case for info in iter_modules(__path__) for case in import_module(f"{__name__}.{info.name}").CASES]
