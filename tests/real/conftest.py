"""Puts this folder's reference within reach of its tests, whatever the folder pytest starts in."""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
