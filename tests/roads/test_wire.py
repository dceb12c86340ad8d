"""The judgement of what a connection reached: the gateway, somebody else, or nobody."""

from __future__ import annotations

import errno
import os
import socket
import ssl
import threading
from functools import partial

import pytest

from extproc.roads import direct, wire
from extproc.roads.road import Outcome
from roads.conftest import HOST, at, closed_port


def opener(port, scope):
    return partial(wire.dial, "127.0.0.1", port, scope.timeout)


def test_the_gateway_is_known_by_its_ca(scope, far, authorities):
    """A certificate of its CA, for whatever name, is by design."""
    server = far(lambda _: b"", authorities[1].issue([HOST]).server_context(("http/1.1",)))
    finding = wire.judge_tls(scope, opener(server.port, scope), "any.example")
    assert finding.outcome is Outcome.BY_DESIGN


def test_a_certificate_of_another_is_open(scope, far, authorities):
    """With its issuer in the evidence."""
    server = far(lambda _: b"", authorities[2].issue([HOST]).server_context(("http/1.1",)))
    finding = wire.judge_tls(scope, opener(server.port, scope), HOST)
    assert (finding.outcome, "CN=theirs" in finding.evidence) == (Outcome.OPEN, True)


def test_nobody_is_closed(scope):
    """A refusal closes a road."""
    finding = wire.judge_tls(scope, opener(closed_port(), scope), HOST)
    assert (finding.outcome, finding.evidence) == (Outcome.CLOSED, "refused")


def test_silence_after_the_handshake_began_is_open(scope, far):
    """A connection that is accepted and stays open was refused by nobody."""
    finding = wire.judge_tls(scope, opener(far(lambda _: None).port, scope), HOST)
    assert (finding.outcome, "left open" in finding.evidence) == (Outcome.OPEN, True)


def test_an_answer_that_is_no_tls_is_open(scope, far):
    """Bytes of the far end."""
    server = far(lambda _: b"SSH-2.0-far\r\n")
    assert wire.judge_tls(scope, opener(server.port, scope), HOST).outcome is Outcome.OPEN


def test_an_end_within_the_handshake_is_closed(scope, far):
    """What the gateway does with an unknown name."""
    finding = wire.judge_tls(scope, opener(far(lambda _: b"").port, scope), HOST)
    assert finding.outcome is Outcome.CLOSED


@pytest.mark.parametrize(("ours", "outcome"), [(True, Outcome.CLOSED), (False, Outcome.OPEN)])
def test_an_alert_is_closed_only_where_the_gateway_proves_itself(scope, far, authorities, ours, outcome):
    """An alert has no signature: a vendor's name at the same place must get a certificate of the gateway's CA."""
    context = authorities[1 if ours else 2].issue([HOST]).server_context(("http/1.1",))

    def only_known(_sock, name, _context):
        return None if name == HOST else ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME

    context.sni_callback = only_known
    server = far(lambda _: b"", context)
    assert wire.judge_tls(scope, opener(server.port, scope), "unknown.example").outcome is outcome


def test_plain_bytes(scope, far):
    """Whatever comes back is open; an end is closed; the gateway's own address is by design."""
    speaks, ends, silent = far(lambda _: b"hello"), far(lambda _: b""), far(lambda _: None)
    judged = [wire.judge_plain(scope, "127.0.0.1", one.port, b"x").outcome for one in (speaks, ends, silent)]
    assert judged == [Outcome.OPEN, Outcome.CLOSED, Outcome.OPEN]
    assert wire.judge_plain(scope, "127.0.0.9", 1, b"x").outcome is Outcome.BY_DESIGN


def test_a_metadata_service_that_finds_nothing_was_reached(scope, far):
    """404, or 401 for a missing token, are answers of something that is not the gateway."""
    for status in (b"404 Not Found", b"401 Unauthorized"):
        server = far(lambda _, status=status: b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")
        finding = wire.judge_plain(scope, "127.0.0.1", server.port, b"GET / HTTP/1.1\r\n\r\n")
        assert (finding.outcome, status[:3] in finding.evidence.encode()) == (Outcome.OPEN, True)


class Refusing:
    """In place of the module's socket: none can be made, or none has a route."""

    def __init__(self, number, *, on_connect=False):
        self.number, self.on_connect = number, on_connect

    def __call__(self, *_):
        if not self.on_connect:
            raise OSError(self.number, os.strerror(self.number))
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def connect(self, _):
        raise OSError(self.number, os.strerror(self.number))


def test_without_an_ipv6_route_nothing_is_called_closed(scope, monkeypatch):
    """It is not tried, and excused: the app has no such road here. IPv4 is not asked for its routes."""
    monkeypatch.setattr(wire.socket, "socket", Refusing(errno.ENETUNREACH, on_connect=True))
    for found in (
        wire.judge_plain(scope, "2001:db8::1", 80, b"x"),
        wire.judge_datagram(scope, "2001:db8::1", 53, b"x"),
        wire.judge_ping(scope, "2001:db8::1"),
        direct.tls_at(scope, "2001:db8::1", 443, HOST),
    ):
        assert (found.outcome, found.excused, found.evidence) == (Outcome.NOT_TRIED, True, "no IPv6 route here")
    assert wire.no_route("192.0.2.1") is None


def test_a_refused_route_is_no_missing_one(monkeypatch):
    """A prohibited destination is a refusal, which the attempt itself finds."""
    monkeypatch.setattr(wire.socket, "socket", Refusing(errno.EACCES, on_connect=True))
    assert wire.no_route("2001:db8::1") is None


def test_without_the_right_to_ping_there_is_no_such_road(scope, monkeypatch):
    """Not tried, with the setting that decides it."""
    monkeypatch.setattr(wire.socket, "socket", Refusing(errno.EACCES))
    found = wire.judge_ping(scope, "192.0.2.1")
    assert (found.outcome, found.excused, "ping_group_range" in found.evidence) == (Outcome.NOT_TRIED, True, True)


def test_datagrams(scope):
    """An answer is open, an ICMP refusal is closed, and so is silence."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as answering,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent,
    ):
        for one in (answering, silent):
            one.bind(("127.0.0.1", 0))
        answering.settimeout(5)

        def answer():
            data, source = answering.recvfrom(100)
            answering.sendto(data, source)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        found = wire.judge_datagram(scope, "127.0.0.1", answering.getsockname()[1], b"ping")
        quiet = wire.judge_datagram(scope, "127.0.0.1", silent.getsockname()[1], b"ping")
        thread.join(5)
    gone = wire.judge_datagram(scope, "127.0.0.1", closed_udp(), b"ping")
    assert (found.outcome, quiet.outcome, gone.outcome) == (Outcome.OPEN, Outcome.CLOSED, Outcome.CLOSED)
    assert gone.evidence == "refused"


def closed_udp():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def test_our_own_shortage_is_no_judgement():
    """No descriptors left says nothing about the road: it is raised, and the row is broken."""
    with pytest.raises(OSError, match="files"):
        wire.refused(OSError(errno.EMFILE, "too many open files"))


def test_a_tunnel(scope, far):
    """2xx gives the connection, another status is a refusal that says so."""
    granted, denied = far(lambda _: b"HTTP/1.1 200 OK\r\n\r\n"), far(lambda _: b"HTTP/1.1 403 No\r\n\r\n")
    with wire.tunnel(at(scope, connect=granted.port), "a.example:443") as sock:
        assert sock.fileno() >= 0
    assert granted.heard[0].startswith(b"CONNECT a.example:443 HTTP/1.1\r\n")
    with pytest.raises(wire.RefusedError, match="403"):
        wire.tunnel(at(scope, connect=denied.port), "a.example:443")


def test_statuses_of_several_answers():
    """Each HTTP/1 status line counts, in order."""
    assert wire.statuses(b"HTTP/1.1 200 OK\r\n\r\nxHTTP/1.1 404 No\r\n\r\n") == [200, 404]
    assert wire.statuses(b"SSH-2.0") == []


@pytest.mark.parametrize(("text", "is_one"), [("10.0.0.1", True), ("fd00::1", True), ("a.example", False), ("", False)])
def test_addresses(text, is_one):
    """Names are none."""
    assert wire.is_address(text) is is_one
