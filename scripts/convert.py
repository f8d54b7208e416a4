"""Converts a checkpoint to an MLX folder; the same as `mlxlm convert`.

    python scripts/convert.py Qwen/Qwen3-4B -q --mlx-path Qwen3-4B-4bit
"""

import sys

from mlxlm.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "convert")
    main()
