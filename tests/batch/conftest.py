"""Puts the fakes of the generation tests, and the tiny checkpoints, within reach."""
import sys
from pathlib import Path

for folder in (Path(__file__).parent, Path(__file__).parents[1], Path(__file__).parents[1] / "generate"):
    sys.path.insert(0, str(folder))
