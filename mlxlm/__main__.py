"""`python -m mlxlm`: the command line, where its script isn't on the path."""

from mlxlm.cli import main

if __name__ == "__main__":
    main()
