#!/usr/bin/env python3
"""preStop of the Envoy container: take the pod out of service, then wait until the open calls have ended.

`POST /healthcheck/fail` makes `/ready` answer 503 and every answer say `connection: close` (HTTP/2: GOAWAY), while the
entries go on taking calls: endpoints and resolvers need seconds to forget the pod. When this returns, the kubelet sends
SIGTERM, at which Envoy ends at once. Nothing but the standard library; the admin interface is a port or a Unix socket.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import socket
import sys
import time
from typing import Final

PAUSE: Final = 0.5  # seconds between two looks
LOOKS: Final = 3  # looks in a row at which no call is open: one may come between two others
ACTIVE: Final = "http.llm.downstream_rq_active"  # open calls, over all entries


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        """Connect to the socket at `path`."""
        super().__init__("admin", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Connect."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def ask(admin: str, path: str, method: str = "GET") -> str | None:
    """Ask the admin interface at `host:port` or a socket's path; None where it does not answer with 200."""
    connection: http.client.HTTPConnection
    if "/" in admin:
        connection = UnixConnection(admin, timeout=2)
    else:
        host, _, port = admin.rpartition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=2)
    with contextlib.closing(connection):
        try:
            connection.request(method, path, headers={"content-length": "0"})
            answer = connection.getresponse()
            text = answer.read().decode()
        except (OSError, http.client.HTTPException):
            return None
    return text if answer.status == 200 else None


def active(admin: str) -> int | None:
    """Count the calls that are open; None where Envoy does not say."""
    shown = ask(admin, f"/stats?filter=^{ACTIVE.replace('.', '%5C.')}$")
    if shown is None:
        return None
    return sum(int(line.rpartition(":")[2]) for line in shown.splitlines() if ":" in line)


def drain(admin: str, *, settle: float, limit: float) -> bool:
    """Drain: `settle` seconds at least, `limit` at most; whether all calls have ended (or Envoy has)."""
    began = time.monotonic()
    ask(admin, "/healthcheck/fail", "POST")
    idle = 0
    while (spent := time.monotonic() - began) < limit:
        idle = (
            0 if active(admin) else idle + 1
        )  # no answer counts as idle: a busy Envoy says something at the next look
        if spent >= settle and idle >= LOOKS:
            return True
        time.sleep(min(PAUSE, limit))
    return not active(admin)


def main() -> int:
    """0 if all calls have ended, 1 if some are cut."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--admin", default="127.0.0.1:9901", help="host:port, or the path of a Unix socket")
    parser.add_argument("--settle", type=float, default=15.0, help="seconds to wait in any case")
    parser.add_argument(
        "--limit", type=float, default=3600.0, help="seconds to wait at most: the longest timeout class"
    )
    args = parser.parse_args()
    return 0 if drain(args.admin, settle=args.settle, limit=args.limit) else 1


if __name__ == "__main__":
    sys.exit(main())
