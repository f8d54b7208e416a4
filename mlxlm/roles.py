"""Roles: which model does which work on a machine that runs several, from registries/roles.toml and the user's file.

A role is data alone: what to load and how. The memory is arithmetic on the model's name, so that it can be told
before anything is fetched.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from . import names
from .data import data_file, read_toml
from .errors import ConfigError, UsageError

SCALES = 0.5
"""Bits that a scale and an offset of 16 bits each add to a weight, in groups of 64."""


@dataclass(frozen=True, kw_only=True)
class Role:
    """One role. ``model`` and ``draft`` are hub ids; ``num_draft_tokens`` is the page's K; ``experts`` work on a token.

    ``residence`` is hot (always in memory) or warm (loaded on demand); ``gguf`` the level that the role was measured
    at, with ``speed`` in tokens per second; ``copies`` run side by side; ``parameters`` where the name tells none.
    """

    name: str
    tier: str
    model: str
    draft: str | None = None
    num_draft_tokens: int | None = None
    lookup: bool = False
    experts: int | None = None
    residence: str = "warm"
    gguf: str | None = None
    speed: float | None = None
    shares: str | None = None
    copies: int = 1
    parameters: float | None = None
    note: str | None = None

    @property
    def _name(self) -> names.ModelName:
        last = self.model.rstrip("/").rpartition("/")[2]  # a folder of the user's may have any name
        return names.parse("_".join(last.split())[-200:] or "model")

    @property
    def weight_bytes(self) -> int | None:
        """Bytes of the weights of all copies, by the model's name; None where the name doesn't tell its size."""
        name = self._name
        count = self.parameters or name.parameters
        if count is None:
            return None
        bits = name.bits or 16
        return int(count * (bits + (SCALES if bits < 16 else 0)) / 8) * self.copies

    @property
    def runs(self) -> bool:
        """Whether mlxlm runs such a model: an embedder's row is there for the memory that it takes."""
        return self._name.kind in ("llm", "vlm")

    def load_arguments(self) -> dict[str, Any]:
        """What `mlxlm.load` is called with for this role; UsageError for a model of a kind that isn't run here."""
        if not self.runs:
            kind = names.tables()["kinds"][self._name.kind]
            raise UsageError(f"this role's model is of a kind that isn't run here: {kind['title']}",
                             where=f"role {self.name}", found=self.model, hint=f"It {kind['here']}.")
        draft = self.draft or ("lookup" if self.lookup else None)
        said = {"draft": draft, "experts_per_token": self.experts}
        return {"path_or_hf_repo": self.model, **{k: v for k, v in said.items() if v is not None}}

    def generate_arguments(self) -> dict[str, Any]:
        """What generation is called with for this role: the number of drafted tokens, and lookup beside a draft."""
        said = {"num_draft_tokens": self.num_draft_tokens, "prompt_lookup": self.draft and self.lookup}
        return {name: value for name, value in said.items() if self.draft and value}


def user_file() -> Path:
    """The user's own roles: ``MLXLM_ROLES``, or roles.toml in the configuration folder."""
    if given := os.environ.get("MLXLM_ROLES"):
        return Path(given).expanduser()
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "mlxlm" / "roles.toml"


def load_roles(extra: str | Path | None = None) -> dict[str, Role]:
    """All roles by name: the project's, with the user's file (or ``extra``) on top, key by key.

    Raises ConfigError for a file with a mistake in it, or one that was named and isn't there.
    """
    path = Path(extra).expanduser() if extra is not None else user_file()
    rows = {name: dict(row) for name, row in read_toml(data_file("roles.toml"))["roles"].items()}
    named = extra is not None or "MLXLM_ROLES" in os.environ
    if named or path.is_file():
        own = read_toml(path).get("roles", {})
        if not isinstance(own, Mapping) or not all(isinstance(row, Mapping) for row in own.values()):
            raise ConfigError("roles must be tables", where=path, expected="[roles.NAME] with model = \"…\"")
        for name, row in own.items():
            rows[name] = {**rows.get(name, {"tier": "C"}), **row}
    return {name: _role(name, rows, path) for name in rows}


def find(name: str, extra: str | Path | None = None) -> Role:
    """The role of that name; UsageError names those there are."""
    roles = load_roles(extra)
    if name not in roles:
        close = get_close_matches(name, roles, 1)
        raise UsageError("no such role", where="role", found=repr(name), expected=", ".join(roles),
                         hint=f"Did you mean {close[0]!r}?" if close else None)
    return roles[name]


def memory(roles: Mapping[str, Role]) -> dict[str, int]:
    """Bytes of weights: ``hot`` and ``total``; a model that several roles share counts once, as does a draft's."""
    total: dict[str, tuple[int, bool]] = {}
    for role in roles.values():
        size, hot = total.get(role.model, (0, False))
        total[role.model] = (max(size, role.weight_bytes or 0), hot or role.residence == "hot")
    return {"hot": sum(size for size, hot in total.values() if hot), "total": sum(size for size, _ in total.values())}


def _role(name: str, rows: dict[str, dict[str, Any]], path: Path) -> Role:
    row = rows[name]
    if (shared := row.get("shares")) is not None:
        if shared not in rows or "shares" in rows[shared]:
            raise ConfigError("it shares the model of a role that has none of its own", where=f"{path}, role {name}",
                              found=repr(shared))
        row = {**rows[shared], **row}
    known = {f.name: f for f in fields(Role)}
    for key, value in row.items():
        if key not in known:
            close = get_close_matches(key, known, 1)
            raise ConfigError("unknown key", where=f"{path}, role {name}", found=repr(key),
                              hint=f"Did you mean {close[0]!r}?" if close else f"Keys: {', '.join(known)}.")
        _check(f"{path}, role {name}, {key}", str(known[key].type), value)
    if not row.get("model"):
        raise ConfigError("it has no model", where=f"{path}, role {name}", hint='Give model = "ORGANIZATION/NAME".')
    if row.get("residence", "warm") not in ("hot", "warm"):
        raise ConfigError("unknown residence", where=f"{path}, role {name}", found=repr(row["residence"]),
                          expected="hot or warm")
    return Role(**{**row, "name": name})


def _check(where: str, kind: str, value: Any) -> None:
    wanted = {"str": str, "int": int, "bool": bool, "float": (int, float)}[kind.split(" ")[0]]
    good = isinstance(value, wanted) and (kind.startswith("bool") or not isinstance(value, bool))
    if not good or (isinstance(value, (int, float)) and value < 0):
        raise ConfigError("wrong kind of value", where=where, found=repr(value)[:60], expected=kind.split(" ")[0])
