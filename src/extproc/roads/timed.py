"""Roads of a moment: a connection from before the policy, and the time in which the gateway restarts."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TextIO

from extproc.roads.direct import HTTPS, each, tls_at
from extproc.roads.identity import must_refuse
from extproc.roads.proxied import through
from extproc.roads.road import Attempt, Finding, Outcome, Road, Scope, by_design, closed, not_tried, open_
from extproc.roads.wire import dial, shown, why

_PAUSE: Final = 0.05
_ENDED: Final = "standard input ended before a line"
_BEGINNING: Final = 30.0  # for the call before the command, and the last one of the window
HOLD_ABOUT: Final = "a connection that was open before the policy was"
WINDOW_ABOUT: Final = "requests while the gateway restarts"


@dataclass(slots=True)
class Held:
    """A TLS connection that was open before the policy.

    `governed`: the gateway's own certificate was at its end. `ended`: the far side ended it before the policy came, as
    servers do with an idle one: its end then is none of the policy's doing.
    """

    host: str
    place: str
    sock: ssl.SSLSocket
    governed: bool
    ended: bool = False


def hold(scope: Scope) -> list[Held]:
    """Open a direct connection to each target, IPv4 and IPv6; those that came about."""
    found = []
    for version in (4, 6):
        for target, address, note in each(scope, scope.targets, version):
            with contextlib.suppress(OSError):
                found.append(_hold(scope, target.host, address, note))
    return found


def _hold(scope: Scope, host: str, address: str, note: str) -> Held:
    place = f"{shown(address, HTTPS)}{note}"
    try:
        sock = scope.trust().wrap_socket(dial(address, HTTPS, scope.timeout), server_hostname=host)
        return Held(host, place, sock, governed=True)
    except ssl.SSLCertVerificationError:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        sock = attentive(context, dial(address, HTTPS, scope.timeout), host)
        return Held(host, place, sock, governed=False)


def attentive(context: ssl.SSLContext, sock: socket.socket, host: str) -> ssl.SSLSocket:
    """TLS whose end can be told from a reset, which Python's ssl else reports alike. Raises OSError."""
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    return context.wrap_socket(sock, server_hostname=host, suppress_ragged_eofs=False)


def wait_holding(held: Sequence[Held], line: TextIO | None, limit: float) -> str:
    """Wait for a line, `limit` seconds at most, and note which connections end meanwhile.

    Why no line came; empty where one did. `line` is None where standard input is closed. An end of it is no line: nobody
    said that the policy is loaded, and a check from before it would call the roads open.
    """
    if line is None:
        return _ENDED
    until = time.monotonic() + limit
    while (left := until - time.monotonic()) > 0:
        watched = {one.sock.fileno(): one for one in held if not one.ended}
        ready = select.select([line.fileno(), *watched], [], [], left)[0]
        for number in ready:
            if number in watched:
                note_end(watched[number])
        if line.fileno() in ready:
            return "" if line.readline() else _ENDED
    return f"nothing came on standard input in {limit:g} s"


def note_end(one: Held) -> None:
    """Read what came on an idle connection, without waiting: session tickets say nothing, an end is noted."""
    limit = one.sock.gettimeout()
    one.sock.settimeout(0)
    try:
        while data := one.sock.recv(4096):
            _ = data
        one.ended = True
    except (ssl.SSLWantReadError, BlockingIOError):
        one.sock.settimeout(limit)
    except OSError:
        one.ended = True


def held_road(held: Sequence[Held] | None) -> Road:
    """The road of connections that `hold` opened; None: it was not asked for."""

    def attempts(_: Scope) -> Iterator[Attempt]:
        for one in held or ():
            yield Attempt(f"the connection to {one.host} at {one.place}", partial(_use, one))
        if held is None:
            yield Attempt("a connection from before", partial(not_tried, "only with --hold", excused=True))
        elif not held:
            reason = "no direct connection could be opened before: was the policy there already?"
            yield Attempt("a connection from before", partial(not_tried, reason))

    return Road("before-policy", HOLD_ABOUT, attempts)


def _use(one: Held) -> Finding:
    """Say something on it. Silence and a reset are `closed` here: the connection was open until the policy came.

    An orderly end is the far side's: it shows no policy, as its packets still pass.
    """
    with one.sock:
        if one.governed:
            return by_design("it was the gateway's already: a certificate of its CA")
        if not one.ended:
            note_end(one)
        if one.ended:
            return not_tried("the far side ended it before the policy came: load it sooner after the start")
        try:
            one.sock.sendall(f"GET / HTTP/1.1\r\nHost: {one.host}\r\n\r\n".encode())
            answer = _first(one.sock)
        except OSError as error:
            return closed(why(error))
    if answer:
        return open_(f"still works: {answer[:24]!r} came back")
    return not_tried("the far side ended it in order, which shows no policy: load it sooner after the start")


def _first(sock: socket.socket) -> bytes:
    """What comes first; empty at an end of the far side's, with or without TLS's farewell. Raises OSError, also at a reset."""
    try:
        return sock.recv(4096)
    except ssl.SSLEOFError as error:
        if error.reason == "UNEXPECTED_EOF_WHILE_READING":  # of a reset, OpenSSL says no reason
            return b""
        raise ConnectionResetError from error


class Restart:
    """Runs a command that restarts the gateway, and tries to get through in the meantime."""

    def __init__(self, command: Sequence[str], window: float) -> None:
        """`window`: seconds from the start of the command in which it tries."""
        self._command = list(command)
        self._window = window

    def road(self) -> Road:
        """The road, with one attempt a kind of request; the first of them runs the command."""
        return Road("restart-window", WINDOW_ABOUT, self._attempts)

    def _attempts(self, scope: Scope) -> Iterator[Attempt]:
        vendor, unlisted = scope.vendors[0], scope.unlisted[0]
        calls = partial(must_refuse, scope, ())
        kinds: list[tuple[str, Callable[[], Finding]]] = [
            ("calls without a key", calls),
            (f"CONNECT {unlisted.host}", partial(through, scope, f"{unlisted.host}:{HTTPS}", unlisted.host)),
        ]
        kinds.extend(
            (f"TLS straight to {vendor.host}", partial(tls_at, scope, address, HTTPS, vendor.host))
            for _, address, _ in each(scope, scope.vendors[:1])
        )
        window = _Window(calls)
        yield Attempt("the restart itself", partial(self._restart, window))
        for tried, run in kinds:
            yield Attempt(f"{tried}, again and again", partial(self._repeat, window, run))

    def _restart(self, window: _Window) -> Finding:
        """Run the command. Raises OSError or SubprocessError where it does not restart anything: then nothing was shown."""
        window.usual = window.calls().evidence
        window.began.set()
        try:
            subprocess.run(self._command, capture_output=True, timeout=self._window, check=True)
        except (OSError, subprocess.SubprocessError) as error:
            window.failed = str(error)
            raise
        return self._shown(window, closed("the command ran, and calls were answered otherwise than before meanwhile"))

    def _repeat(self, window: _Window, run: Callable[[], Finding]) -> Finding:
        """Worst of all tries from the command's start to the end of the window."""
        window.began.wait(_BEGINNING)
        limit, tries, last = time.monotonic() + self._window, 0, closed("not once")
        judges = run is window.calls
        try:
            while time.monotonic() < limit:
                last, tries = run(), tries + 1
                window.noticed |= judges and last.evidence != window.usual
                if last.outcome is Outcome.OPEN:
                    return open_(f"try {tries}, {time.monotonic() - limit + self._window:.1f} s in: {last.evidence}")
                time.sleep(_PAUSE)
        finally:
            if judges:
                window.over.set()
        said = f"{tries} tries in {self._window:g} s, the last: {last.evidence}"
        return self._shown(window, Finding(last.outcome, said, last.excused))

    def _shown(self, window: _Window, finding: Finding) -> Finding:
        """The finding, if there was a restart: a command that ran is none, a call that was answered otherwise shows it."""
        window.over.wait(self._window + _BEGINNING)
        if window.failed:
            return not_tried(f"the gateway was not restarted: {window.failed}")
        if not window.noticed:
            return not_tried(f"every call was answered as before ({window.usual}): nothing was seen to restart")
        return finding


@dataclass(slots=True)
class _Window:
    """What the attempts of one restart share. `usual`: what a call without a key is answered at other times."""

    calls: Callable[[], Finding]
    usual: str = ""
    failed: str = ""
    noticed: bool = False
    began: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)


def no_restart() -> Road:
    """The road where no command was given."""
    missing = not_tried("only with --restart-command", excused=True)
    return Road("restart-window", WINDOW_ABOUT, lambda _: (Attempt("calls while it restarts", lambda: missing),))
