"""The roads of HTTP against a gateway that says what a test wants: shapes, frames, identity, proxy, moments."""

from __future__ import annotations

import os
import socket
import ssl
import struct
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hpack import Encoder
from hyperframe.frame import GoAwayFrame, HeadersFrame, RstStreamFrame, SettingsFrame

from extproc.roads import direct, frames, identity, proxied, shapes, suite, timed
from extproc.roads.road import Door, Gateway, Outcome, Road, Scope, Target
from roads.conftest import HOST, UNLISTED, Inner, at, closed_port

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
REFUSED = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"
KEY = b"HTTP/1.1 401 No\r\nx-llm-error: caller_no_key\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        (OK, Outcome.OPEN),
        (REFUSED, Outcome.CLOSED),
        (REFUSED + REFUSED, Outcome.OPEN),  # read as two requests
        (KEY, Outcome.OPEN),  # the policy stage was asked: it was read as a request
        (b"", Outcome.CLOSED),
        (b"SSH-2.0-x\r\n", Outcome.OPEN),
    ],
)
def test_a_shape_is_judged_by_what_is_answered(scope, far, said, outcome):
    """Only an early refusal is closed."""
    place = at(scope, base_url=far(lambda _: said).port)
    assert shapes.judge_shape(place, shapes.shape(place, b"X: y\r\n")).outcome is outcome


def test_shapes_are_what_they_say(scope, far):
    """Length and coding of the body stand in the bytes that go out, with this app's key."""
    server = far(lambda _: REFUSED)
    place = at(scope, base_url=server.port)
    (road,) = (one for one in shapes.ROADS if one.name == "smuggle-length")
    rows = suite.run(place, [road])
    assert rows[0].outcome is Outcome.CLOSED
    assert len(server.heard) == len(shapes.LENGTHS)
    assert all(place.gateway.key.encode() in data and b"Content-Length:" in data for data in server.heard)
    assert sum(b"Transfer-Encoding" in data for data in server.heard) == 3


@pytest.mark.parametrize(("said", "outcome"), [(OK, Outcome.BY_DESIGN), (REFUSED, Outcome.CLOSED)])
def test_the_well_formed_request_is_judged_the_other_way_round(scope, far, said, outcome):
    """An answer is what has to come: without it the shapes prove nothing."""
    assert shapes.well_formed(at(scope, base_url=far(lambda _: said).port)).outcome is outcome


def frame(kind: str) -> bytes:
    """What a server says on stream 1."""
    if kind == "reset":
        return RstStreamFrame(1, error_code=1).serialize()
    if kind == "goaway":
        return GoAwayFrame(0, last_stream_id=1, error_code=1).serialize()
    fields = [(":status", kind.partition(" ")[0])] + ([("x-llm-error", "caller_no_key")] if " " in kind else [])
    return HeadersFrame(1, Encoder().encode(fields), flags=["END_HEADERS", "END_STREAM"]).serialize()


@pytest.mark.parametrize(
    ("kind", "outcome"),
    [
        ("200", Outcome.OPEN),
        ("400", Outcome.CLOSED),
        ("401 by the policy stage", Outcome.OPEN),
        ("reset", Outcome.CLOSED),
        ("goaway", Outcome.CLOSED),
    ],
)
def test_frames_are_judged_by_the_answer(scope, far, kind, outcome):
    """A refusal by frame or by an early status is closed."""
    place = at(scope, base_url=far(lambda _: SettingsFrame(0).serialize() + frame(kind)).port)
    (row,) = suite.run(place, [next(one for one in frames.ROADS if one.name == "h2-pseudo")])
    assert row.outcome is outcome


def test_frames_that_are_none(scope, far):
    """Another protocol is somebody else."""
    place = at(scope, base_url=far(lambda _: b"\x00\x00\x04\x01\x04\x00\x00\x00\x01\xff\xff\xff\xff").port)
    assert frames.well_framed(place).outcome is Outcome.CLOSED
    assert frames.judge_fields(place, [(b":method", b"GET")], None).outcome is Outcome.OPEN


def test_without_a_key_shapes_are_not_tried(far):
    """Every one of them would be refused for that."""
    server = far(lambda _: REFUSED)
    gateway = Gateway("127.0.0.1", (), {"base_url": server.port}, Path(__file__))
    keyless = Scope((Target(HOST),), (Target("u"),), (), (), (), gateway, 0.3)
    assert shapes.well_formed(keyless).outcome is Outcome.NOT_TRIED
    assert frames.well_framed(keyless).outcome is Outcome.NOT_TRIED
    assert server.heard == []
    (row,) = suite.run(keyless, [proxied.GATEWAY])
    assert row.missing == 0, "the rows that need a key say so; the others can be known without one"
    rows = suite.run(keyless, [*shapes.ROADS, *frames.ROADS, *identity.ROADS])
    assert [row.road for row in rows if not row.missing] == []


def test_spoofed_headers(scope, far):
    """Another answer with them, or one that brings an internal header back, is open."""
    same, echo = far(lambda _: OK), far(lambda data: OK[:17] + b"x-llmi-team: a\r\n" + OK[17:])
    swayed = far(lambda data: REFUSED if b"x-llmi-team" in data else OK)
    found = []
    for server in (same, echo, swayed):
        attempts = {one.tried: one for one in identity.ROADS[0].attempts(at(scope, base_url=server.port))}
        found.append(attempts["internal headers beside the key change nothing"].run().outcome)
    assert found == [Outcome.CLOSED, Outcome.OPEN, Outcome.OPEN]


def test_keys(scope, far):
    """A gateway that takes no unknown key is closed, also for both keys at once; one that takes any is open."""

    def strict(data: bytes) -> bytes:
        known = {b"exk-id-own": b"A", b"exk-ot-her": b"B"}
        sent = data.split(b"Bearer ")[1].split(b"\r\n")[0] if b"Bearer " in data else b""
        return OK.replace(b"{}", b"{" + known[sent]) if sent in known else KEY

    (closed,) = suite.run(at(scope, base_url=far(strict).port), [identity.ROADS[1]])
    (opened,) = suite.run(at(scope, base_url=far(lambda _: OK).port), [identity.ROADS[1]])
    assert (closed.outcome, opened.outcome) == (Outcome.CLOSED, Outcome.OPEN)
    told = {one.tried: one.outcome for one in closed.tried}
    assert told["another tenant's key, whole"] is Outcome.BY_DESIGN
    assert told["both keys at once"] is Outcome.CLOSED


def test_the_proxy(scope, far, authorities):
    """A tunnel to an unlisted host is open if it ends at another's certificate, closed if the proxy says no."""
    denies = at(scope, connect=far(lambda _: b"HTTP/1.1 403 No\r\n\r\n").port)
    grants = at(scope, connect=far(lambda _: b"HTTP/1.1 200 OK\r\n\r\nSSH-2.0-x\r\n").port)
    for name in ("connect-unlisted", "connect-ip", "proxy-loop"):
        road: Road = next(one for one in proxied.ROADS if one.name == name)
        outcomes = [suite.run(place, [road])[0].outcome for place in (denies, grants)]
        assert outcomes == [Outcome.CLOSED, Outcome.OPEN], name
        (row,) = suite.run(at(scope, base_url=closed_port()), [road])
        assert (row.outcome, row.missing) == (Outcome.NOT_TRIED, 0), "the operator said that there is no such entry"


PRIVATE_PORTS = next(one for one in proxied.ROADS if one.name == "private-ports")


def test_private_ports(scope, far):
    """What answers is open, and so is what takes the connection and says nothing."""
    ports = (far(lambda _: OK).port, far(lambda _: None).port, closed_port())
    gateways = [replace(scope.gateway, private=(port,)) for port in ports]
    outcomes = [suite.run(replace(scope, gateway=one), [PRIVATE_PORTS])[0].outcome for one in gateways]
    assert outcomes == [Outcome.OPEN, Outcome.OPEN, Outcome.CLOSED]


def test_private_ports_behind_a_service(scope, far):
    """The gateway's address refuses what one of the pods answers: each address of the other name is asked."""
    port = far(lambda _: OK).port  # on 127.0.0.1; nobody is on the other two
    gateway = replace(scope.gateway, host="127.0.0.9")
    for pods, outcome in (
        (("127.0.0.8", "127.0.0.1"), Outcome.OPEN),
        (("127.0.0.8", "127.0.0.7"), Outcome.CLOSED),
        ((), Outcome.NOT_TRIED),
    ):
        place = replace(scope, gateway=replace(gateway, doors=(Door("pods.example", port, pods),)))
        (row,) = suite.run(place, [PRIVATE_PORTS])
        assert (row.outcome, row.missing) == (outcome, 0 if pods else 1), row.evidence
        assert [one.tried for one in row.tried if pods] == [f"TCP to {pod}:{port} of pods.example" for pod in pods]
    loops = next(one for one in proxied.ROADS if one.name == "proxy-loop")
    tried = {one.tried for one in loops.attempts(place)}
    assert {f"CONNECT pods.example:{port}", f"CONNECT 127.0.0.1:{port}"} <= tried


def test_direct_roads_name_where_they_go(scope):
    """Each attempt says the host and the address; the other version of IP is tried somewhere outside."""
    tried = {road.name: [one.tried for one in road.attempts(scope)] for road in direct.ROADS}
    assert tried["direct-ipv4"][0] == f"TLS to {HOST} at 127.0.0.2:443"
    assert tried["direct-ipv6"][0] == f"TLS to {HOST} at [::1]:443, an address outside, none of its own"
    assert tried["metadata"] == ["HTTP to 127.0.0.5:80"]
    assert len(tried["other-ports"]) == 4


def test_a_vendor_whose_name_leads_elsewhere_is_not_tried_there(scope):
    """Its own addresses are not known: no road to it was tried, which must not look closed."""
    lost = replace(scope, vendors=(Target(HOST, led=("127.0.0.9",)),))
    for name in ("direct-ipv4", "other-ports", "sni-mismatch", "no-sni", "ech"):
        road = next(one for one in direct.ROADS if one.name == name)
        found = [one.run() for one in road.attempts(lost) if HOST in one.tried and UNLISTED not in one.tried]
        assert [one.outcome for one in found] == [Outcome.NOT_TRIED], name
        assert f"{HOST}=ADDRESS" in found[0].evidence
        assert not found[0].excused


def test_a_link_local_address_is_tried_on_each_interface(monkeypatch):
    """It means another neighbour on each; one that names its interface stays as it is."""
    monkeypatch.setattr(socket, "if_nameindex", lambda: [(1, "lo"), (2, "eth0"), (3, "eth1")])
    assert direct.scoped("fe80::a9fe:a9fe") == ["fe80::a9fe:a9fe%eth0", "fe80::a9fe:a9fe%eth1"]
    assert direct.scoped("fe80::1%eth9") == ["fe80::1%eth9"]
    assert [direct.scoped(one) for one in ("169.254.169.254", "fd00:ec2::254")] == [
        ["169.254.169.254"],
        ["fd00:ec2::254"],
    ]


def far_side(sock, ends):
    """What it does once it was asked."""
    sock.settimeout(2)
    sock.recv(100)
    if ends == "answers":
        sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    elif ends == "in order":
        sock.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize(
    ("ends", "outcome", "said"),
    [
        ("answers", Outcome.OPEN, "still works"),
        ("silent", Outcome.CLOSED, "no answer"),
        ("in order", Outcome.NOT_TRIED, "in order"),
    ],
)
def test_a_held_connection(scope, ends, outcome, said):
    """Still answered: open. Cut: closed. Ended by the far side in order: no policy was seen."""
    ours, theirs = socket.socketpair()
    ours.settimeout(0.3)
    with theirs:
        threading.Thread(target=far_side, args=(theirs, ends), daemon=True).start()
        held = timed.Held(HOST, "127.0.0.2:443", ours, governed=False)  # type: ignore[arg-type]
        (row,) = suite.run(scope, [timed.held_road([held])])
    assert (row.outcome, said in row.evidence) == (outcome, True), row.evidence


@pytest.mark.parametrize("how", ["reset", "in order"])
def test_a_reset_and_an_orderly_end_after_the_request(scope, authorities, how):
    """By TCP and TLS: a reset is a cut, an end in order is the far side's own."""
    ready = threading.Event()

    def serve(sock):
        with authorities[2].issue([HOST]).server_context(("http/1.1",)).wrap_socket(sock, server_side=True) as secure:
            ready.wait(5)
            if how == "reset":
                secure.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            else:
                secure.recv(100)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=lambda: serve(listening.accept()[0]), daemon=True)
        thread.start()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        sock = timed.attentive(context, socket.create_connection(listening.getsockname(), 2), HOST)

        def said(data):
            sent = type(sock).sendall(sock, data)
            ready.set()
            return sent

        sock.sendall = said
        held = timed.Held(HOST, "127.0.0.2:443", sock, governed=False)
        (row,) = suite.run(scope, [timed.held_road([held])])
        thread.join(5)
    assert row.outcome is (Outcome.CLOSED if how == "reset" else Outcome.NOT_TRIED), row.evidence
    assert ("reset" in row.evidence) is (how == "reset")


@pytest.mark.parametrize("idle", [True, False], ids=["ended by the server", "kept"])
def test_a_server_that_ends_an_idle_connection_is_no_policy(scope, idle):
    """While it waits for the line, an end is noted: such a connection shows nothing."""
    ours, theirs = socket.socketpair()
    read, write = os.pipe()
    ours.settimeout(0.3)
    with theirs, os.fdopen(read) as line, os.fdopen(write, "w") as person:
        held = timed.Held(HOST, "127.0.0.2:443", ours, governed=False)  # type: ignore[arg-type]
        if idle:
            theirs.close()
            assert timed.wait_holding([held], line, 0.2) == "nothing came on standard input in 0.2 s"
        person.write("\n")
        person.flush()
        assert timed.wait_holding([held], line, 5) == ""
        (row,) = suite.run(scope, [timed.held_road([held])])
    assert (held.ended, row.outcome) == (idle, Outcome.NOT_TRIED if idle else Outcome.CLOSED), row.evidence
    assert row.missing == (1 if idle else 0)


def test_the_end_of_standard_input_is_no_line():
    """Nobody said that the policy is loaded: the roads are not tried before it is."""
    with Path(os.devnull).open() as line:
        assert timed.wait_holding([], line, 5) == "standard input ended before a line"
    assert timed.wait_holding([], None, 5) == "standard input ended before a line"


def test_a_connection_that_was_the_gateways_already(scope):
    """By design."""
    ours, theirs = socket.socketpair()
    with theirs:
        held = timed.Held(HOST, "127.0.0.2:443", ours, governed=True)  # type: ignore[arg-type]
        (row,) = suite.run(scope, [timed.held_road([held])])
    assert row.outcome is Outcome.BY_DESIGN


@pytest.mark.parametrize(
    ("code", "meanwhile", "outcome"),
    [
        ("0", REFUSED, Outcome.CLOSED),
        ("0", KEY, Outcome.NOT_TRIED),  # `true` restarts nothing
        ("0", OK, Outcome.OPEN),
        ("3", REFUSED, Outcome.NOT_TRIED),
    ],
)
def test_the_window_of_a_restart(scope, far, code, meanwhile, outcome):
    """The command runs, calls go on meanwhile; one that gets through is open; that none was answered otherwise, no restart."""
    answers = iter([KEY])
    place = at(scope, base_url=far(lambda _: next(answers, meanwhile)).port, connect=closed_port())
    restart = timed.Restart([sys.executable, "-c", f"raise SystemExit({code})"], 1.0)
    (row,) = suite.run(place, [restart.road()])
    assert row.outcome is outcome
    assert row.broken is (code == "3"), "a command that fails is no restart, and the suite says that it could not run"
    assert (row.missing > 0) is (outcome is Outcome.NOT_TRIED)


@pytest.mark.parametrize("entry", ["base_url_tls", "connect"])
@pytest.mark.parametrize("strict", [True, False])
def test_without_a_plain_base_url_requests_go_by_another_entry(scope, far, authorities, entry, strict):
    """By TLS, or TLS inside a CONNECT, as in a cluster; each row is tried there, and judged by what is answered there."""
    server = Inner(
        authorities[1].issue([HOST]).server_context(("h2", "http/1.1")), tunnel=entry == "connect", strict=strict
    )
    try:
        place = at(scope, **{entry: server.port})
        rows = {row.road: row for row in suite.run(place, [*shapes.ROADS, *frames.ROADS, *identity.ROADS])}
    finally:
        server.close()
    assert [name for name, row in rows.items() if row.missing or row.broken] == []
    outcomes = {row.outcome for row in rows.values()}
    assert outcomes == ({Outcome.CLOSED} if strict else {Outcome.OPEN}), {n: r.evidence for n, r in rows.items()}
    assert (HOST if entry == "connect" else scope.gateway.host) in server.called
