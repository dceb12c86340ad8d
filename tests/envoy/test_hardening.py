"""Envoy's own hardening: each line of the shipped files holds, and the same request gets through without that line."""

from __future__ import annotations

import contextlib
import socket
import ssl
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from envoy.hardening import (
    Door,
    Rig,
    Row,
    alive,
    at_once,
    both,
    get,
    h2_client,
    say,
    tls_vendor,
    with_,
    without,
    without_item,
)
from envoy.machine import HOSTS, SimThread
from envoy.plain import KEY, SHIPPED, Plain, prepare, running
from extproc.adapters.envoy_files import Node, find_resource, http_managers, read_yaml
from extproc.adapters.pki import create_ca
from extproc.sim.answer import SimAnswer

pytestmark = pytest.mark.envoy

BODY = (
    2 << 20
)  # the limit of a request body where a row sets it; one below the connection's buffer (1 MiB) has no effect
COMMON = "common_http_protocol_options"
HTTP2 = "http2_protocol_options"
TLS_10 = {"tls_minimum_protocol_version": "TLSv1_0", "cipher_suites": ["ECDHE-ECDSA-AES128-SHA"]}
HALF_A_HEAD = b"GET /local HTTP/1.1\r\nhost: a"
HALF_A_BODY = b"POST /v1/x HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nhalf"
ONE_CALL = b"GET /local HTTP/1.1\r\nhost: a\r\n\r\n"


def _prefix(prefix: str) -> Node:
    return {"remove_on_match": {"key_matcher": {"prefix": prefix, "ignore_case": True}}}


def _settings(number: int, wanted: int) -> Any:
    """A probe: Envoy announces this HTTP/2 setting; 0 stands for the window of the whole connection."""

    def probe(door: Door) -> bool:
        with h2_client(door.port) as client:
            assert client.answered(_sent(client))
            return (client.settings.get(number) if number else client.window) == wanted

    return probe


def _sent(client: Any) -> int:
    number: int = client.head()
    client.flush()
    return number


def _flood(frame: bytes, count: int, *, post: bool = False) -> Any:
    """A probe: the connection ends when this frame comes so often."""

    def probe(door: Door) -> bool:
        with h2_client(door.port) as client:
            assert client.answered(_sent(client))
            if post:
                client.head("POST", "/v1/x", end=False)
                client.flush()
            with contextlib.suppress(ConnectionError):
                client.sock.sendall(frame * count)
            ended: bool = client.ended()
            return ended

    return probe


def _spoofed(field: str, seen: str | None = None) -> Any:
    """A probe: a vendor never gets this field of a caller (or the one that Envoy would make of it)."""

    def probe(door: Door) -> bool:
        answer = get(door.port, "/v1/x", f"{field}: 203.0.113.9")
        assert answer.status, "no answer"
        return (seen or field) not in door.seen()

    return probe


def _stalls(*pieces: bytes) -> Any:
    """A probe: who says this much and no more is not waited for."""
    return lambda door: say(door.port, *pieces).closed


def _vendor_says(*fields: tuple[str, str]) -> Any:
    """A probe: an app never gets these fields of a vendor."""

    def probe(door: Door) -> bool:
        door.answer(SimAnswer(200, fields, (b"{}",)))
        answer = get(door.port, "/v1/x")
        return not any(name in answer.fields for name, _ in fields)

    return probe


def _only_old(context: ssl.SSLContext) -> None:
    """TLS 1.1 and nothing newer, which Python warns of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")


def _old_tls(sock: socket.socket) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    _only_old(context)
    return context.wrap_socket(sock, server_hostname="localhost")


def _hello() -> bytes:
    """A ClientHello, the first half of a handshake."""
    coming, going = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(coming, going, server_hostname="localhost").do_handshake()
    return going.read()


def _bad(*fields: str, path: str = "/local") -> Any:
    """A probe: a request like this is refused, and not by a server behind."""
    return lambda door: get(door.port, path, *fields).status in {400, 431}


def _connect(*fields: str) -> Any:
    """A probe: CONNECT with these fields is refused as a bad request, not for its host (which is 403)."""
    lines = "\r\n".join(["CONNECT other.example:443 HTTP/1.1", "host: other.example:443", *fields, "", ""])
    return lambda door: say(door.port, lines.encode(), wait=1).status in {400, 431}


def _says_local(path: str) -> Any:
    """A probe: this path is taken for /local."""
    return lambda door: get(door.port, path).body == b"local"


ENTRY = (
    Row("underscores", without(COMMON, "headers_with_underscores_action"), _spoofed("x_api_key")),
    Row("many-fields", with_(500, COMMON, "max_headers_count"), _bad(*[f"x-{n}: 1" for n in range(101)])),
    Row("long-fields", with_(500, "max_request_headers_kb"), _bad("x-long: " + "x" * (61 << 10))),
    Row("escaped-slash", without("path_with_escaped_slashes_action"), _bad(path="/local%2f..%2fx")),
    Row("dot-segments", with_(False, "normalize_path"), _says_local("/v1/../local")),
    Row("slashes", with_(False, "merge_slashes"), _says_local("//local")),
    Row(
        "source",
        with_(False, "use_remote_address"),
        lambda door: get(door.port, "/local", "x-forwarded-for: 203.0.113.9").fields["x-source"] == "127.0.0.1",
    ),
    Row("our-fields", without_item("mutations", _prefix("x-llmi-")), _spoofed("x-llmi-class")),
    Row("envoys-fields", without_item("mutations", _prefix("x-envoy-")), _spoofed("x-envoy-peer-metadata")),
    Row("appended-source", with_(False, "skip_xff_append"), _spoofed("x-other", "x-forwarded-for")),
    Row("expected-timeout", without("suppress_envoy_headers"), _spoofed("x-other", "x-envoy-expected-rq-timeout-ms")),
    Row(
        "our-answer-fields",
        without_item("response_mutations", _prefix("x-llmi-")),
        lambda door: "x-llmi-x" not in get(door.port).fields,
    ),
    Row(
        "envoys-answer-fields",
        without_item("response_mutations", _prefix("x-envoy-")),
        lambda door: "x-envoy-x" not in get(door.port).fields,
    ),
    Row(
        "server-field",
        without("server_header_transformation"),
        lambda door: get(door.port).fields.get("server") != "envoy",
    ),
    Row(
        "slow-head", without("request_headers_timeout"), _stalls(HALF_A_HEAD), with_("0.4s", "request_headers_timeout")
    ),
    Row("slow-body", without("request_timeout"), _stalls(HALF_A_BODY), with_("0.4s", "request_timeout")),
    Row(
        "silent-stream",
        without("stream_idle_timeout"),
        _stalls(HALF_A_HEAD),
        both(without("request_headers_timeout"), with_("0.4s", "stream_idle_timeout")),
    ),
    Row(
        "idle", without(COMMON, "idle_timeout"), _stalls(ONE_CALL), both(with_("0.4s", COMMON, "idle_timeout"), at_once)
    ),
    Row(
        "body",
        with_(4 * BODY, "request_body_buffer_limit"),
        lambda door: get(door.port, "/v1/x", method="POST", body=b"x" * 2 * BODY).status == 413,
        with_(BODY, "request_body_buffer_limit"),
    ),
    Row("streams", with_(1000, HTTP2, "max_concurrent_streams"), _settings(3, 100)),
    Row("stream-window", without(HTTP2, "initial_stream_window_size"), _settings(4, 1 << 20)),
    Row("connection-window", without(HTTP2, "initial_connection_window_size"), _settings(0, 1 << 24)),
    Row(
        "empty-frames",
        with_(1000, HTTP2, "max_consecutive_inbound_frames_with_empty_payload"),
        _flood(b"\0\0\0\0\0\0\0\0\3", 3, post=True),
    ),
    Row(
        "priority-frames",
        with_(100000, HTTP2, "max_inbound_priority_frames_per_stream"),
        _flood(b"\0\0\5\2\0\0\0\0\1\0\0\0\0\1", 400),
    ),
    Row(
        "control-frames",
        with_(100000, HTTP2, "max_outbound_control_frames"),
        _flood(b"\0\0\x08\6\0\0\0\0\0" + b"x" * 8, 2000),
    ),
    Row(
        "connect-underscores",
        without(COMMON, "headers_with_underscores_action"),
        _connect("x_api_key: 1"),
        of="connect",
    ),
    Row(
        "connect-many-fields",
        with_(100, COMMON, "max_headers_count"),
        _connect(*[f"x-{n}: 1" for n in range(60)]),
        of="connect",
    ),
    Row(
        "connect-long-fields",
        without("max_request_headers_kb"),
        _connect("x-long: " + "x" * (17 << 10)),
        of="connect",
    ),
    Row(
        "connect-slow-head",
        without("request_headers_timeout"),
        _stalls(HALF_A_HEAD),
        with_("0.4s", "request_headers_timeout"),
        of="connect",
    ),
    Row(
        "connect-idle",
        without(COMMON, "idle_timeout"),
        _stalls(ONE_CALL),
        both(with_("0.4s", COMMON, "idle_timeout"), at_once),
        of="connect",
    ),
    Row(
        "no-hello",
        without("listener_filters_timeout"),
        _stalls(),
        with_("0.4s", "listener_filters_timeout"),
        of="base_url_tls",
    ),
    Row(
        "half-handshake",
        without("transport_socket_connect_timeout"),
        lambda door: say(door.port, _hello()).closed,
        with_("0.4s", "transport_socket_connect_timeout"),
        of="base_url_tls",
    ),
    Row(
        "old-tls",
        with_(TLS_10, "tls_params"),
        lambda door: not say(door.port, ONE_CALL, client=_old_tls).status,
        of="base_url_tls",
    ),
)


def _cleaned() -> tuple[tuple[Node, str], ...]:
    """Each removal of the inner hop, with a field that it is for."""
    (manager,) = http_managers(
        find_resource(read_yaml(SHIPPED / "bootstrap.yaml")["static_resources"]["listeners"], "egress_openai", SHIPPED)
    )
    (clean,) = [one for one in manager["http_filters"] if one["name"] == "llm.clean"]
    found = []
    for item in clean["typed_config"]["mutations"]["request_mutations"]:
        prefix = item.get("remove_on_match", {}).get("key_matcher", {}).get("prefix", "")
        found.append((item, f"{prefix}-any".replace("--", "-") if prefix else item["remove"]))
    return tuple(found)


CLEANED = _cleaned()
REPLACED = "authorization"  # the injector of this provider writes over it as well
INNER = tuple(
    Row(f"no-{field}", without_item("request_mutations", item), _spoofed(field), of="egress_openai")
    for item, field in CLEANED
    if field != REPLACED
)

PROVIDER = (
    Row("vendor-says-ours", without_item("response_mutations", _prefix("x-llm")), _vendor_says(("x-llm-error", "1"))),
    Row(
        "vendor-says-quic",
        without_item("response_mutations", {"remove": "alt-svc"}),
        _vendor_says(("alt-svc", 'h3=":443"')),
    ),
    Row(
        "vendor-orders",
        without_item("response_mutations", _prefix("x-envoy-")),
        _vendor_says(("x-envoy-overloaded", "true")),
    ),
    Row(
        "vendor-many-fields",
        with_(500, COMMON, "max_headers_count"),
        _vendor_says(*[(f"x-{n}", "1") for n in range(120)]),
    ),
    Row(
        "vendor-long-fields",
        with_(500, COMMON, "max_response_headers_kb"),
        _vendor_says(("x-long", "x" * (61 << 10))),
    ),
    Row(
        "other-name",
        without("match_typed_subject_alt_names"),
        lambda door: get(door.port, "/v1/x").status == 503,
    ),
    Row("other-ca", without("validation_context"), lambda door: get(door.port, "/v1/x").status == 503),
    Row(
        "old-tls-vendor",
        with_(TLS_10, "tls_params"),
        lambda door: get(door.port, "/v1/x").status == 503,
    ),
)
PROVIDER = tuple(Row(r.name, r.weaken, r.probe, r.quicken, "openai_tls") for r in PROVIDER)
ROWS = (*ENTRY, *INNER, *PROVIDER)


@dataclass
class Doors:
    """The running rig."""

    plain: Plain
    rig: Rig
    vendor: SimThread

    def door(self, row: Row, kind: str) -> Door:
        """Where the row's probe knocks: `held` is as shipped, `open` without the line."""

        def clear() -> None:
            self.vendor.sims["openai"].requests.clear()
            self.vendor.sims["openai"].clear_script()

        def seen() -> dict[str, str]:
            (one,) = self.vendor.do(lambda: list(self.vendor.sims["openai"].requests))
            return one.fields

        def answer(*answers: SimAnswer) -> None:
            self.vendor.do(lambda: self.vendor.sims["openai"].script(*answers))

        self.vendor.do(clear)
        return Door(self.rig.ports[f"{row.name}.{kind}"], seen, answer)


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    """One Envoy with every row, and the vendors that they need."""
    folder = tmp_path_factory.mktemp("hardening")
    ours, theirs = create_ca(folder / "vendor-ca", "vendors"), create_ca(folder / "other-ca", "somebody else")
    old = ours.issue([HOSTS["openai"]]).server_context(())
    _only_old(old)
    contexts = {
        "other-name": ours.issue(["other.example"]).server_context(()),
        "other-ca": theirs.issue([HOSTS["openai"]]).server_context(()),
        "old-tls-vendor": old,
    }
    vendor = SimThread(ours, dict.fromkeys(HOSTS, KEY), ("h2", "http/1.1"))
    vendor.start()
    try:
        with contextlib.ExitStack() as stack:
            ports = {name: stack.enter_context(tls_vendor(one, [])) for name, one in contexts.items()}
            rig = Rig(ROWS, vendor.sims["openai"].port, folder / "vendor-ca" / "ca.pem", ports)
            plain = stack.enter_context(running(prepare(folder / "st", rig.change)))
            yield Doors(plain, rig, vendor)
    finally:
        vendor.stop()


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_line_holds_and_without_it_the_door_is_open(doors: Doors, row: Row) -> None:
    """As shipped it is refused or taken away; the same listener without this one line lets it through."""
    assert row.probe(doors.door(row, "held")), f"{row} does not hold"
    assert not row.probe(doors.door(row, "open")), f"{row} holds without its line: it is not what holds"
    assert alive(doors.plain)
