"""The command line: a command's module is imported when that command is called, so that `--help` is instant."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the command that the process was started with, and ends the process with its exit status."""
    from .group import run

    sys.exit(run(sys.argv[1:]))
