"""Verifies the official models from end to end; the same as `mlxlm verify`.

    python scripts/verify.py --all --markdown report.md
"""

import sys

from mlxlm.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "verify")
    main()
