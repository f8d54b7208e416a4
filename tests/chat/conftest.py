"""Puts this folder's helpers, and those of all tests, within reach."""
import sys
from pathlib import Path

for folder in (Path(__file__).parent, Path(__file__).parents[1]):
    sys.path.insert(0, str(folder))
