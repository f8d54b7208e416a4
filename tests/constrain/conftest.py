"""Puts this folder's helpers, and the tokenizers of the text tests, within reach."""
import sys
from pathlib import Path

for folder in (Path(__file__).parent, Path(__file__).parents[1], Path(__file__).parents[1] / "text"):
    sys.path.insert(0, str(folder))
