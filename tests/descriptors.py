"""The protobuf descriptors that an Envoy binary carries: its exact API, whatever any documentation says.

C++ protobuf embeds each .proto file as a serialised FileDescriptorProto, which begins with its own file name
(field 1). We look for that beginning and parse as far as descriptor fields go.
"""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from google.protobuf.descriptor_pb2 import DescriptorProto, EnumDescriptorProto, FileDescriptorProto
from google.protobuf.message import DecodeError

ROOT = Path(__file__).resolve().parents[1]
_LAST_FIELD = 14  # FileDescriptorProto.edition


def envoy_binary() -> Path:
    """The Envoy that the tests run: `EXTPROC_ENVOY`, or the one in `.venv-envoy`. Raises FileNotFoundError."""
    named = os.environ.get("EXTPROC_ENVOY")
    found = [Path(named)] if named else sorted(ROOT.glob(".venv-envoy/lib/python3.*/site-packages/envoy/_bin/envoy"))
    if not found or not found[0].is_file():
        where = named or ".venv-envoy/lib/python3.*/site-packages/envoy/_bin/envoy"
        raise FileNotFoundError(f"no Envoy binary at {where}: install requirements/envoy.txt, or set EXTPROC_ENVOY")
    return found[0]


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    """The number at `at`, and where the next thing begins."""
    number = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    raise ValueError("no varint")


def _fields(data: mmap.mmap, start: int) -> Iterator[int]:
    """Where each run of descriptor fields from `start` on could end. Field 1, the name, comes once only."""
    at, first = start, True
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if not 1 <= number <= _LAST_FIELD or wire not in {0, 2} or (number == 1 and not first):
            return
        size, at = _varint(data, at)
        if wire == 2:
            at += size
        first = False
        yield at


def file_descriptors(binary: Path, names: tuple[str, ...]) -> dict[str, FileDescriptorProto]:
    """The descriptors of the .proto files `names` in `binary`; raises LookupError where one is not there."""
    found: dict[str, FileDescriptorProto] = {}
    with binary.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for name in names:
            opening = b"\x0a" + bytes((len(name),)) + name.encode()
            for match in re.finditer(re.escape(opening), data):
                best = _parse(data, match.start())
                if best is not None and best.name == name and best.message_type:
                    found[name] = best
                    break
            else:
                raise LookupError(f"{binary} carries no descriptor of {name}")
    return found


def _parse(data: mmap.mmap, start: int) -> FileDescriptorProto | None:
    """The longest descriptor that begins at `start`."""
    try:
        ends = list(_fields(data, start))
    except (ValueError, IndexError):
        return None
    for end in reversed(ends):
        try:
            return FileDescriptorProto.FromString(data[start:end])
        except DecodeError:
            continue
    return None


def messages(file: FileDescriptorProto) -> dict[str, DescriptorProto]:
    """Every message of `file`, nested ones too, by its full name without the package."""
    found: dict[str, DescriptorProto] = {}

    def walk(message: DescriptorProto, prefix: str) -> None:
        name = f"{prefix}{message.name}"
        found[name] = message
        for nested in message.nested_type:
            walk(nested, f"{name}.")

    for message in file.message_type:
        walk(message, "")
    return found


def enums(file: FileDescriptorProto) -> dict[str, EnumDescriptorProto]:
    """Every enum of `file` by its full name without the package."""
    found = {enum.name: enum for enum in file.enum_type}
    for name, message in messages(file).items():
        found.update({f"{name}.{enum.name}": enum for enum in message.enum_type})
    return found


def merged(
    files: Mapping[str, FileDescriptorProto],
) -> tuple[dict[str, DescriptorProto], dict[str, EnumDescriptorProto]]:
    """Messages and enums of several files in one name space each, first come first served."""
    all_messages: dict[str, DescriptorProto] = {}
    all_enums: dict[str, EnumDescriptorProto] = {}
    for file in files.values():
        for name, message in messages(file).items():
            all_messages.setdefault(name, message)
        for name, enum in enums(file).items():
            all_enums.setdefault(name, enum)
    return all_messages, all_enums
