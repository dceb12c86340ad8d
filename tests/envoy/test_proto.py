"""What we declare of Envoy's interface is what the Envoy binary itself declares."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import cache

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto

from descriptors import ROOT, enums, envoy_binary, file_descriptors, merged, messages
from extproc.adapters._pb import extproc_pb2, health_pb2, secrets_pb2

ENVOY_FILES = (
    "envoy/service/ext_proc/v3/external_processor.proto",
    "envoy/extensions/filters/http/ext_proc/v3/processing_mode.proto",
    "envoy/config/core/v3/base.proto",
    "envoy/type/v3/http_status.proto",
)
HEALTH_FILE = "src/proto/grpc/health/v1/health.proto"
SECRET_FILES = (
    "envoy/service/discovery/v3/discovery.proto",
    "envoy/extensions/transport_sockets/tls/v3/secret.proto",
    "envoy/extensions/transport_sockets/tls/v3/common.proto",
    "envoy/config/core/v3/base.proto",
    "google/rpc/status.proto",
)

F = FieldDescriptorProto
# types that are read from and written to the same bytes for every value that we use
SAME_WIRE = {F.TYPE_ENUM: F.TYPE_INT32}
# StatusCode is an enum of Envoy's; we send any status, as a number
NUMBERS_FOR_ENUMS = {"HttpStatus.code"}
BUILT_IN = ".google.protobuf."


@cache
def carried() -> dict[str, FileDescriptorProto]:
    return file_descriptors(envoy_binary(), (*ENVOY_FILES, HEALTH_FILE))


def declared(module: object) -> FileDescriptorProto:
    file = FileDescriptorProto()
    module.DESCRIPTOR.CopyToProto(file)  # type: ignore[attr-defined]
    return file


def oneof(message: DescriptorProto, field: FieldDescriptorProto) -> str:
    return message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else ""


def short(name: str, packages: tuple[str, ...]) -> str:
    """A type's name without its package; protobuf's own types keep theirs."""
    if name.startswith(BUILT_IN):
        return name
    for package in packages:
        if name.startswith(f".{package}."):
            return name[len(package) + 2 :]
    return name


def packages(*files: FileDescriptorProto) -> tuple[str, ...]:
    return tuple(sorted({file.package for file in files}, key=len, reverse=True))


def disagreements(ours: FileDescriptorProto, theirs: dict[str, FileDescriptorProto]) -> Iterator[str]:
    """Everything in `ours` that `theirs` has otherwise, or not at all."""
    their_messages, their_enums = merged(theirs)
    their_packages = packages(*theirs.values())
    for name, message in messages(ours).items():
        other = their_messages.get(name)
        if other is None:
            yield f"{name}: no such message"
            continue
        by_name = {field.name: field for field in other.field}
        for field in message.field:
            where = f"{name}.{field.name}"
            match = by_name.get(field.name)
            if match is None:
                yield f"{where}: no such field"
                continue
            mine = describe(message, field, packages(ours))
            yours = describe(other, match, their_packages)
            if where in NUMBERS_FOR_ENUMS:
                yours["type"], yours["of"] = SAME_WIRE[yours["type"]], ""
            yield from (f"{where}: {key} {mine[key]!r} is {yours[key]!r}" for key in mine if mine[key] != yours[key])
    for name, enum in enums(ours).items():
        if name not in their_enums:
            yield f"{name}: no such enum"
            continue
        numbers = {value.name: value.number for value in their_enums[name].value}
        for value in enum.value:
            if numbers.get(value.name) != value.number:
                yield f"{name}.{value.name}: {value.number} is {numbers.get(value.name)}"


def describe(message: DescriptorProto, field: FieldDescriptorProto, known: tuple[str, ...]) -> dict[str, object]:
    return {
        "number": field.number,
        "type": field.type,
        "of": short(field.type_name, known),
        "label": field.label,
        "oneof": oneof(message, field),
    }


def envoy_files() -> dict[str, FileDescriptorProto]:
    return {name: carried()[name] for name in ENVOY_FILES}


def test_every_field_we_declare_is_envoys() -> None:
    """Numbers, types, labels, oneofs and enum values of extproc.proto agree with the binary."""
    ours = declared(extproc_pb2)
    assert list(disagreements(ours, envoy_files())) == []
    assert sum(len(message.field) for message in messages(ours).values()) > 70


def test_the_health_protocol_is_envoys() -> None:
    """The same for health.proto, and the names of its methods, which are on the wire too."""
    theirs = carried()[HEALTH_FILE]
    ours = declared(health_pb2)
    assert list(disagreements(ours, {HEALTH_FILE: theirs})) == []
    assert ours.package == theirs.package
    signatures = [
        {
            (service.name, m.name, m.client_streaming, m.server_streaming)
            for service in f.service
            for m in service.method
        }
        for f in (ours, theirs)
    ]
    assert signatures[0]
    assert signatures[0] <= signatures[1]


def test_the_secret_discovery_protocol_is_envoys() -> None:
    """The same for secrets.proto, and the one method of it that we serve."""
    service_file = "envoy/service/secret/v3/sds.proto"
    found = file_descriptors(envoy_binary(), SECRET_FILES)
    ours = declared(secrets_pb2)
    assert list(disagreements(ours, found)) == []
    assert sum(len(message.field) for message in messages(ours).values()) > 15
    assert service_method(envoy_binary().read_bytes(), service_file)


def service_method(data: bytes, file: str) -> bool:
    """Whether the binary's file of services, which has no message to be told by, names ours."""
    start = data.find(b"\x0a" + bytes((len(file),)) + file.encode())
    assert start >= 0
    return b"SecretDiscoveryService" in data[start : start + 4000] and b"DeltaSecrets" in data[start : start + 4000]


def test_nothing_else_shares_a_number_with_a_field_of_ours() -> None:
    """No field that we left out has the number of one that we declare under another name."""
    theirs, _ = merged(envoy_files())
    for name, message in messages(declared(extproc_pb2)).items():
        mine = {field.number: field.name for field in message.field}
        others = {field.number: field.name for field in theirs[name].field}
        assert {number: others[number] for number in mine} == mine


def mutations() -> Iterator[tuple[str, FileDescriptorProto]]:
    """Our descriptor with one thing changed: every field's number, type, label and oneof, every enum value."""
    whole = declared(extproc_pb2)
    for index, (name, message) in enumerate(messages(whole).items()):
        for position, field in enumerate(message.field):
            changes = {"number": field.number + 1, "type": F.TYPE_FIXED64, "label": 4 - field.label}
            if field.HasField("oneof_index"):
                changes["oneof_index"] = -1
            for key, value in changes.items():
                copy = FileDescriptorProto.FromString(whole.SerializeToString())
                target = list(messages(copy).values())[index].field[position]
                if key == "oneof_index":
                    target.ClearField(key)
                else:
                    setattr(target, key, value)
                yield f"{name}.{field.name}.{key}", copy
    for index, (name, enum) in enumerate(enums(whole).items()):
        for position, value in enumerate(enum.value):
            copy = FileDescriptorProto.FromString(whole.SerializeToString())
            list(enums(copy).values())[index].value[position].number += 1
            yield f"{name}.{value.name}", copy


def test_any_changed_number_type_label_or_oneof_is_noticed() -> None:
    """The comparison fails for every single deviation that could be made in our file."""
    theirs = envoy_files()
    cases = list(mutations())
    unnoticed = [what for what, file in cases if not list(disagreements(file, theirs))]
    assert unnoticed == []
    assert len(cases) > 200


def test_a_field_or_message_that_envoy_does_not_have_is_noticed() -> None:
    """An invented name is a disagreement even where its number is free."""
    file = declared(extproc_pb2)
    file.message_type[0].field.add(name="invented", number=99, type=F.TYPE_STRING, label=F.LABEL_OPTIONAL)
    file.message_type.add(name="Invented")
    found = list(disagreements(file, envoy_files()))
    assert found == ["ProcessingRequest.invented: no such field", "Invented: no such message"]


def test_without_an_envoy_binary_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing binary is a failure with a cure, not a skipped test."""
    monkeypatch.setenv("EXTPROC_ENVOY", "/nonexistent/envoy")
    with pytest.raises(FileNotFoundError, match="set EXTPROC_ENVOY"):
        envoy_binary()


def test_a_file_that_the_binary_does_not_carry_is_told() -> None:
    """The extractor never answers for a file that it did not find."""
    with pytest.raises(LookupError, match="no/such/file"):
        file_descriptors(envoy_binary(), ("no/such/file.proto",))


def test_the_generated_modules_are_up_to_date() -> None:
    """What is committed under _pb is what protoc makes of proto/ now."""
    run = subprocess.run(
        [sys.executable, str(ROOT / "proto" / "generate.py"), "--check"], capture_output=True, text=True
    )
    assert (run.returncode, run.stderr) == (0, "")
