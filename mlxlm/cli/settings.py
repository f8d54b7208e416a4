"""The user's defaults for options: a TOML file with a table a command, checked when that command runs.

An option is taken from the command line, else from ``MLXLM_<COMMAND>_<OPTION>`` in the environment, else from this
file, else from its own default.
"""

from __future__ import annotations

import os
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click

from ..data import read_toml
from ..errors import ConfigError


def settings_file() -> Path:
    """``MLXLM_CONFIG``, or config.toml in the configuration folder."""
    if given := os.environ.get("MLXLM_CONFIG"):
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "mlxlm" / "config.toml"


def defaults(context: click.Context, name: str, command: click.Command) -> dict[str, Any]:
    """The file's values for one command, by parameter name. Raises ConfigError, naming file and key, for a mistake."""
    path = settings_file()
    if not path.is_file() and "MLXLM_CONFIG" not in os.environ:
        return {}
    tables = read_toml(path)
    commands = context.command.list_commands(context) if isinstance(context.command, click.Group) else []
    for table in tables:
        if table not in commands:
            raise _unknown("table", table, commands, path)
    values = tables.get(name, {})
    if not isinstance(values, dict):
        raise ConfigError("not a table", where=f"{path}, {name}", expected=f"[{name}] and options below it")
    return {key.replace("-", "_"): _checked(context, command, key, value, f"{path}, [{name}]")
            for key, value in values.items()}


def _checked(context: click.Context, command: click.Command, key: str, value: Any, where: str) -> Any:
    options = {str(option.name): option for option in command.params if isinstance(option, click.Option)}
    option = options.get(key.replace("-", "_"))
    if option is None:
        raise _unknown("option", key, [name.replace("_", "-") for name in options], where)
    try:
        option.type_cast_value(context, value)
    except (click.BadParameter, TypeError) as error:
        said = error.message if isinstance(error, click.BadParameter) else str(error)
        raise ConfigError(f"{key} can't be that: {said}", where=where, found=repr(value)[:60]) from error
    return value


def _unknown(what: str, name: str, known: list[str], where: object) -> ConfigError:
    close = get_close_matches(name, known, 1)
    return ConfigError(f"unknown {what}", where=where, found=repr(name),
                       hint=f"Did you mean {close[0]!r}?" if close else f"Known: {', '.join(known)}.")
