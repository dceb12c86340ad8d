"""Types of single values: sizes, durations, names, hosts, addresses, globs, references to secrets.

Every error raised here names the cure; none repeats the value, which may be a secret put in the wrong place.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePath
from typing import Annotated, Final, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    model_validator,
)
from pydantic_core import PydanticCustomError

_SIZE: Final = re.compile(r"([0-9]{1,12}) *(B|KiB|MiB|GiB|kB|MB|GB)?")
_SIZE_UNITS: Final = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "kB": 10**3, "MB": 10**6, "GB": 10**9}
_DURATION: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(ms|s|m|h|d)")
_DURATION_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,62}")
_CLUSTER: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_MODEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,199}")
_LABEL: Final = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_HOST: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_ADDRESS: Final = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+):([0-9]{1,5})")
_GLOB: Final = re.compile(r"[^\s\x00-\x1f\[\]{}]{1,200}")
_ENV: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")


class Section(BaseModel):
    """A part of the configuration: frozen, strict, no unknown keys. Mappings in it are not to be written to."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


@dataclass(frozen=True, slots=True)
class Kind:
    """What a reader of the reference is told about a type."""

    text: str


def bad(reason: str, hint: str) -> PydanticCustomError:
    """Make a validation error in our own words: `reason` and the cure."""
    return PydanticCustomError("config", "{reason}", {"reason": reason, "hint": hint})


def parse_size(value: object) -> int:
    """Convert `32MiB`, `500 kB` or a whole number of bytes to bytes."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise bad("is not a size", "write a whole number with a unit: 512KiB, 32MiB, 1GiB")
    return int(match[1]) * _SIZE_UNITS[match[2] or "B"]


def parse_duration(value: object) -> float:
    """Convert `250ms`, `120s`, `10m`, `1h`, `30d` to seconds. A bare number is refused: its unit would be a guess."""
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise bad("is not a duration", "write a number with a unit: 250ms, 120s, 10m, 1h")
    return float(match[1]) * _DURATION_UNITS[match[2]]


def _duration(value: object, info: ValidationInfo) -> float:
    """Take seconds from Python code, and text with a unit from a file."""
    if info.mode == "python" and isinstance(value, float):
        return value
    return parse_duration(value)


def _matching(pattern: re.Pattern[str], reason: str, hint: str) -> AfterValidator:
    def check(value: str) -> str:
        if pattern.fullmatch(value) is None:
            raise bad(reason, hint)
        return value

    return AfterValidator(check)


def _host(value: str) -> str:
    if "://" in value or "/" in value:
        raise bad("is a URL, not a host", "write the host only: api.openai.com")
    if ":" in value:
        raise bad("has a port", "write the host only; ports belong to Envoy's listeners")
    if value != value.lower():
        raise bad("is not lower-case", "write the host in lower case: TLS server names are compared that way")
    if "*" in value:
        raise bad("is a wildcard", "name each host: its certificate and its Envoy route need the full name")
    if len(value) > 253 or _HOST.fullmatch(value) is None:
        raise bad("is not a host name", "write the name that apps call, without a trailing dot: api.openai.com")
    return value


def _address(value: str) -> str:
    match = _ADDRESS.fullmatch(value)
    if match is None or not 0 < int(match[2]) < 65536:
        raise bad("is not an address", 'write host and port, IPv6 in brackets: "127.0.0.1:9464", "[::1]:9464"')
    return value


def _resolved(value: PurePath, info: ValidationInfo) -> PurePath:
    """Relative paths are relative to the folder of the file that they stand in."""
    base = (info.context or {}).get("base")
    return value if base is None else base / value


def _not_empty(value: PurePath) -> PurePath:
    if str(value) in {"", "."}:
        raise bad("is not a file path", "name the file")
    return value


Size = Annotated[int, BeforeValidator(parse_size), Kind("size")]
"""Bytes."""
Duration = Annotated[float, BeforeValidator(_duration), Kind("duration")]
"""Seconds."""
Name = Annotated[
    str,
    _matching(_NAME, "is not a valid name", "use lower-case letters, digits and _, beginning with a letter"),
    Kind("name"),
]
ClusterName = Annotated[
    str, _matching(_CLUSTER, "is not a cluster name", "use the name of a cluster in Envoy's cds.yaml"), Kind("name")
]
ModelName = Annotated[
    str,
    _matching(_MODEL, "is not a model name", "use letters, digits and . _ : / @ + -, as the vendor spells it"),
    Kind("model name"),
]
Host = Annotated[str, AfterValidator(_host), Kind("host name")]
Address = Annotated[str, AfterValidator(_address), Kind("host:port")]
Glob = Annotated[
    str,
    _matching(_GLOB, "is not a pattern", "use text with * (any run of characters) and ? (any one character)"),
    Kind("pattern"),
]
FilePath = Annotated[PurePath, AfterValidator(_not_empty), AfterValidator(_resolved), Kind("file path")]
EnvName = Annotated[
    str,
    _matching(_ENV, "is not the name of an environment variable", "write the name only, without $: OPENAI_API_KEY"),
    Kind("environment variable"),
]


class SecretRef(Section):
    """Where a secret is to be read: from exactly one of an environment variable or a file. Never the secret itself."""

    env: EnvName | None = Field(default=None, description="Name of the environment variable that holds the secret.")
    file: FilePath | None = Field(default=None, description="File that holds the secret.")

    @model_validator(mode="before")
    @classmethod
    def _is_reference(cls, data: object) -> object:
        if not isinstance(data, dict | cls):
            raise bad("must be a reference: secrets only by reference", "write {env: NAME} or {file: path}")
        return data

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.env is None) == (self.file is None):
            raise bad("needs exactly one of `env` and `file`", "write {env: NAME} or {file: path}")
        return self
