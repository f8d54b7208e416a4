"""Where the project's data files lie: beside the package in a checkout, inside it once installed."""

import tomllib
from functools import cache
from pathlib import Path
from typing import Any

from .errors import ConfigError

FOLDERS = ("registries", "chat_templates")


@cache
def data_folder(name: str) -> Path:
    """The folder ``registries`` or ``chat_templates``, whichever way the package came here."""
    if name not in FOLDERS:
        raise ValueError(f"no data folder is called {name!r}; there are {', '.join(FOLDERS)}")
    package = Path(__file__).resolve().parent
    for folder in (package / "data" / name, package.parent / name):
        if folder.is_dir():
            return folder
    raise ConfigError(f"the folder {name} is missing from the installation", where=package,
                      hint="Install mlxlm again.")


def data_file(name: str, folder: str = "registries") -> Path:
    """The path of one data file, such as ``llm.toml``; ConfigError if the installation lacks it."""
    path = data_folder(folder) / name
    if not path.is_file():
        raise ConfigError("it is missing from the installation", where=path, hint="Install mlxlm again.")
    return path


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as a dict; ConfigError says what is wrong with it, and on which line."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"it can't be read: {error.strerror}", where=path) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"it isn't TOML: {error}", where=path) from error
