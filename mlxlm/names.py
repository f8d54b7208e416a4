"""The anatomy of a model's name: each word of it read by what it says, from tables in registries/.

Nothing is fetched: a word that no table or pattern knows is part of the model's own name, and what custom leaves
unsaid (a language model's stage) is taken from its family.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from .data import data_file, read_toml
from .errors import UsageError

ROLES = ("stage", "alignment", "tuning", "quantization", "modality", "purpose")
"""The tables of registries/names.toml that hold words, in the order in which they are asked."""

SIZE = re.compile(r"(?:(\d+)x)?(\d+(?:\.\d+)?)([bmk])", re.I)
ACTIVE = re.compile(r"a(\d+(?:\.\d+)?)([bm])", re.I)
EFFECTIVE = re.compile(r"e(\d+(?:\.\d+)?)b", re.I)
EXPERTS = re.compile(r"(\d+)e", re.I)
VERSION = re.compile(r"v(\d+(?:\.\d+)*)", re.I)
NUMBER = re.compile(r"\d+(?:\.\d+)*[a-z]?")
BITS = re.compile(r"(\d+(?:\.\d+)?)[-_]?bits?|int(\d+)|q(\d+)|(\d+(?:\.\d+)?)bpw", re.I)
CONTEXT = re.compile(r"(\d+)k", re.I)
GROUP = re.compile(r"(?:g|gs|group)(\d+)", re.I)
GGUF = re.compile(
    r"(i?q\d+(?:_(?:k|\d|xxs|xs|nl))?(?:_(?:xxs|xs|s|m|l|xl))?|tq\d_\d|mxfp4_moe|b?f16|f32)", re.I)
SHARD = re.compile(r"-\d{5}-of-\d{5}$")
MONTH, DAY = r"(?:0[1-9]|1[0-2])", r"(?:[0-2]\d|3[01])"
DATE = re.compile(rf"20\d\d{MONTH}{DAY}|2[2-9]{MONTH}|{MONTH}{DAY}")  # YYYYMMDD, YYMM or MMDD
CAMEL = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+(?:\.\d+)*")
UNITS = {"b": 1e9, "m": 1e6, "k": 1e3}
ENDINGS = {".gguf": "gguf", ".bin": "pytorch", ".pt": "pytorch", ".pth": "pytorch", ".onnx": "onnx",
           ".engine": "tensorrt", ".safetensors": "safetensors"}


@dataclass(frozen=True)
class Part:
    """One word of a name: the text, what it is about (family, size, stage …), and what it says."""

    text: str
    role: str
    meaning: str


_INNER = ("parts", "about", "unsaid_stage")


@dataclass
class ModelName:
    """What a name says; a field is None or empty where the name is silent.

    ``parameters`` and ``active`` count weights (of a mixture such as 8x7B: the product, an upper bound);
    ``bits`` are a weight's; ``base`` is the family that a fine-tune or a VLM stands on.
    """

    name: str
    organization: str | None = None
    family: str | None = None
    version: str | None = None
    base: str | None = None
    kind: str = "llm"
    parameters: float | None = None
    active: float | None = None
    stage: str | None = None
    alignment: str | None = None
    tuning: str | None = None
    quantization: str | None = None
    level: str | None = None
    bits: float | None = None
    group_size: int | None = None
    modality: str | None = None
    purpose: tuple[str, ...] = ()
    context: int | None = None
    date: str | None = None
    format: str = "safetensors"
    parts: list[Part] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict, repr=False)
    unsaid_stage: str = field(default="base", repr=False)

    @property
    def loadable(self) -> str:
        """"yes", or why the format can't be loaded here and what to do."""
        return tables()["formats"][self.format]["loads"]

    def as_dict(self) -> dict[str, Any]:
        """Every field that says something, JSON-able."""
        said = {k: v for k, v in self.__dict__.items() if v not in (None, (), [], {}) and k not in _INNER}
        said["parts"] = [part.__dict__ for part in self.parts]
        return {**said, "loadable": self.loadable, **({"about": self.about} if self.about else {})}


@cache
def tables() -> dict[str, Any]:
    """registries/names.toml: words, GGUF's levels and formats."""
    return read_toml(data_file("names.toml"))


@cache
def families() -> dict[str, dict[str, Any]]:
    """registries/families.toml, by the words that a name of the family begins with."""
    rows = read_toml(data_file("families.toml"))
    return {key: {**rows[row["same"]], **row} if "same" in row else row for key, row in rows.items()}


def parse(text: str) -> ModelName:
    """What the name of a model (hub id, file or plain name) says, word by word.

    Raises UsageError for a text that can't be a model's name.
    """
    given = text.strip()
    if not given or len(given) > 300 or re.search(r"\s", given) or given.count("/") > 1:
        raise UsageError("this can't be the name of a model", where="name", found=repr(given[:60]),
                         expected="ORGANIZATION/NAME, NAME or a file's name", hint="For a path, give its last part.")
    organization, _, rest = given.rpartition("/")
    name = ModelName(given, organization or None)
    if organization:
        name.parts.append(Part(organization, "organization", "who published it"))
    _read_words(name, _words(name, rest))
    _conclude(name)
    return name


def _words(name: ModelName, rest: str) -> list[str]:
    """The words between hyphens; a file's ending says its format, and GGUF's levels stay whole."""
    for ending, kind in ENDINGS.items():
        if rest.lower().endswith(ending):
            rest, name.format = rest[:-len(ending)], kind
            name.parts.append(Part(ending, "format", tables()["formats"][kind]["title"]))
    rest = SHARD.sub("", rest)
    words = []
    for word in re.split(r"[-:]|\.(?=i?q\d)", rest, flags=re.I):
        words += [word] if GGUF.fullmatch(word) or _table(word) else word.split("_")
    return [word for word in words if word]


def _read_words(name: ModelName, words: list[str]) -> None:
    own: list[str] = []  # words that nothing explains, up to the next family
    at = 0
    while at < len(words):
        found = _family(words, at)
        if found:
            row, used, version = found
            _take_family(name, row, words[at:at + used], version)
            at += used
        elif (part := _known(name, words[at])) is not None:
            name.parts.append(part)
            at += 1
        else:
            own.append(words[at])
            name.parts.append(Part(words[at], "name", "the model's own name"))
            at += 1
    if name.family is None and own:
        head = re.fullmatch(r"([A-Za-z_]+?)(\d+(?:\.\d+)*)?", own[0])
        name.family = head[1] if head else own[0]
        name.version = name.version or (head[2] if head else None)


def _family(words: list[str], at: int) -> tuple[dict[str, Any], int, str | None] | None:
    """(row, words used, version) of the longest family name that begins at a word."""
    for used in range(min(4, len(words) - at), 0, -1):
        text = "-".join(words[at:at + used]).lower()
        if row := families().get(text):
            return row, used, row.get("version")
        versioned = re.fullmatch(r"(.+?)-?v?(\d+(?:\.\d+)*)", text)
        if versioned and (row := families().get(versioned[1])) and not SIZE.fullmatch(words[at + used - 1]):
            if used > 1 and DATE.fullmatch(words[at + used - 1]):
                continue  # Mistral-2407 has a date, and Llama-3 a version
            return row, used, versioned[2]
    return None


def _take_family(name: ModelName, row: dict[str, Any], words: list[str], version: str | None) -> None:
    text = "-".join(words)
    if name.family is None and not any(part.role == "name" for part in name.parts):
        name.family, name.version, name.kind = row["name"], version or name.version, row["kind"]
        hidden = ("name", "kind", "same", "version", "plain", "plain_from")
        name.about = {k: v for k, v in row.items() if k not in hidden}
        if float((re.match(r"\d+(\.\d+)?", name.version or "0") or [0])[0]) >= row.get("plain_from", 0):
            name.unsaid_stage = row.get("plain", "base")
        said = f"{row['name']}{f', version {version}' if version else ''}"
        maker = f", by {row['organization']}" if "organization" in row else ""
        name.parts.append(Part(text, "family", said + maker))
    else:
        name.base = f"{row['name']}{f' {version}' if version else ''}"
        name.parts.append(Part(text, "base", f"stands on {name.base}"))


def _known(name: ModelName, word: str) -> Part | None:
    """The word's part, its sense noted in ``name``; None where it says nothing."""
    return _pattern(name, word) or _listed(name, word) or _mixed(name, word)


def _pattern(name: ModelName, word: str) -> Part | None:
    if m := GGUF.fullmatch(word):
        level = next((k for k in tables()["gguf"] if k.lower() == m[1].lower()), None)
        if "_" in word or (level and name.format == "gguf"):
            return _gguf_level(name, word, level)
    if m := SIZE.fullmatch(word):
        if m[3].lower() == "k":
            name.context = int(float(m[2]) * 1024)
            return Part(word, "context", f"a context of {name.context:,} tokens")
        each = float(m[2]) * UNITS[m[3].lower()]
        name.parameters = each * int(m[1] or 1)
        said = f"{m[1]} experts of {shown(each)}: at most {shown(name.parameters)}" if m[1] else shown(each)
        return Part(word, "size", f"{said} parameters")
    if m := ACTIVE.fullmatch(word):
        name.active = float(m[1]) * UNITS[m[2].lower()]
        return Part(word, "active size", f"{shown(name.active)} parameters work on a token")
    if m := EFFECTIVE.fullmatch(word):
        name.parameters = name.parameters or float(m[1]) * 1e9
        return Part(word, "size", f"runs in the memory of {shown(float(m[1]) * 1e9)} parameters")
    if m := EXPERTS.fullmatch(word):
        return Part(word, "experts", f"{m[1]} experts")
    return _marks(name, word)


def _marks(name: ModelName, word: str) -> Part | None:
    """Bits, groups, versions and dates."""
    if m := BITS.fullmatch(word):
        name.bits = float(next(filter(None, m.groups())))
        name.quantization = name.quantization or f"{name.bits:g}-bit"
        return Part(word, "quantization", f"{name.bits:g} bits a weight")
    if m := GROUP.fullmatch(word):
        name.group_size = int(m[1])
        return Part(word, "quantization", f"one scale for {m[1]} weights")
    if DATE.fullmatch(word):
        name.date = word
        return Part(word, "date", f"released {_day(word)}")
    if m := VERSION.fullmatch(word) or (NUMBER.fullmatch(word) if name.parts else None):
        name.version = name.version or (m[1] if m.re is VERSION else m[0])
        return Part(word, "version", f"version {m[1] if m.re is VERSION else m[0]}")
    return None


def _gguf_level(name: ModelName, word: str, level: str | None) -> Part:
    name.format, name.quantization = "gguf", "GGUF"
    name.level = level or word.upper()
    row = tables()["gguf"].get(level, {})
    digits = re.search(r"\d+", word)
    name.bits = row.get("bits", float(digits[0]) if digits else None)
    quality = f", quality: {row['quality']}; for {row['use']}" if row else ""
    return Part(word, "quantization", f"GGUF level {name.level}, about {name.bits:g} bits{quality}")


def _table(word: str) -> tuple[str, dict[str, Any]] | None:
    return next(((role, tables()[role][word.lower()]) for role in ROLES if word.lower() in tables()[role]), None)


def _listed(name: ModelName, word: str) -> Part | None:
    """A word of the tables."""
    found = _table(word)
    if found is None:
        return None
    role, row = found
    label = row.get("label", word.lower())
    if role == "purpose":
        name.purpose += (label,)
    elif role == "stage" and name.stage:
        name.stage = f"{name.stage}, {label}"
    else:
        setattr(name, role, label)
    name.bits = row.get("bits", name.bits)
    name.format = row.get("format", name.format)
    return Part(word, role, row["meaning"])


def _mixed(name: ModelName, word: str) -> Part | None:
    """A word made of others: OrpoLlama is ORPO and Llama."""
    pieces = CAMEL.findall(word)
    if len(pieces) < 2 or "".join(pieces) != word:
        return None
    known = [(piece, _table(piece)) for piece in pieces]
    family = next((families()[p.lower()] for p in pieces if p.lower() in families()), None)
    if family is None or not any(found for _, found in known):
        return None
    for piece, found in known:
        if found:
            _listed(name, piece)
    if name.family is None:
        name.family, name.base, name.kind = word, family["name"], family["kind"]
    return Part(word, "family", f"made from {family['name']}: " + ", ".join(
        found[1]["meaning"] for _, found in known if found))


def _conclude(name: ModelName) -> None:
    """What the words say together."""
    if name.tuning and name.tuning.startswith("merged"):
        name.format = "safetensors"
    if name.modality is None and name.kind == "vlm":
        name.modality = "vision-language"
    if name.modality in ("vision-language", "omni", "multimodal") and name.kind == "llm":
        name.kind = "vlm"
    if name.modality in ("audio", "speech"):
        name.kind = "speech"
    if name.modality == "embedding":
        name.kind = "embedding"
    if (name.organization or "").lower() in ("mlx-community", "lmstudio-community") and name.bits and (
            name.format == "safetensors"):
        name.format = "mlx"
    if name.stage is None and name.kind == "llm" and not (name.alignment or name.tuning):
        name.stage = name.unsaid_stage


def shown(count: float) -> str:
    """A count of parameters as names write it: 8B, 0.5B, 270M."""
    return f"{count / 1e9:g}B" if count >= 5e8 else f"{count / 1e6:g}M"


def _day(word: str) -> str:
    if len(word) == 8:
        return f"{word[:4]}-{word[4:6]}-{word[6:]}"
    if word[0] == "2" and int(word[:2]) > 12:
        return f"20{word[:2]}-{word[2:]}"
    return f"on {word[:2]}-{word[2:]} (month-day)"
