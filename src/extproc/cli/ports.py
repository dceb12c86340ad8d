"""The ports of `up`: their names, what `--port` says, and whether they are free."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Final

from extproc.errors import ConfigError

ADMIN: Final = "admin"
# entry -> default port; the names of Envoy's listeners, and `admin`
PORTS: Final = {
    "intercept": 8443,
    "connect": 3128,
    "base_url": 8080,
    "base_url_tls": 8444,
    "redirect": 15001,
    "trap": 15443,
    ADMIN: 9901,
}
LOOPBACK: Final = "127.0.0.1"
REDIRECTED: Final = ("redirect", "trap")  # a firewall leads connections of both families of IP there
_PAIRS: Final = (("127.0.0.1", "::1"), ("0.0.0.0", "::"))  # noqa: S104 -- what the operator has chosen, in the other family


def chosen(options: Sequence[str]) -> dict[str, int]:
    """Entry -> port, from the default ports and `ENTRY=PORT` options. Raises `ConfigError`."""
    ports = dict(PORTS)
    for given in options:
        name, _, number = given.partition("=")
        if name not in PORTS or not number.isdecimal() or not 0 < int(number) < 65536:
            hint = f"entries: {', '.join(PORTS)}; ports: 1 to 65535; for example --port base_url=18080"
            raise ConfigError("--port", f"{given!r} is not ENTRY=PORT", hint)
        ports[name] = int(number)
    seen: dict[int, str] = {}
    for name, port in ports.items():
        other = seen.setdefault(port, name)
        if other != name:
            raise ConfigError("--port", f"{other} and {name} have the same port {port}", f"--port {name}=NUMBER")
    return ports


def counterpart(bind: str) -> str | None:
    """The same address in the other family of IP; None where it has none, or this machine does not know that family."""
    other = next((pair[1 - pair.index(bind)] for pair in _PAIRS if bind in pair), None)
    return other if other is not None and not _refused(other, 0) else None


def check_free(bind: str, ports: Mapping[str, int]) -> None:
    """Raise `ConfigError` for the first port that somebody has.

    Envoy itself would not notice another Envoy of the same user: with SO_REUSEPORT the two would share the port.
    """
    other = counterpart(bind)
    wanted = [(name, LOOPBACK if name == ADMIN else bind, port) for name, port in ports.items()]
    wanted += [(name, other, ports[name]) for name in REDIRECTED if other is not None and name in ports]
    for name, host, port in wanted:
        reason = _refused(host, port)
        if reason == errno.EADDRINUSE:
            hint = f"is a gateway running already? Stop it, or choose another: --port {name}=NUMBER"
            raise ConfigError(f"port {port} ({name})", f"is in use on {host}", hint)
        if reason == errno.EACCES:
            raise ConfigError(f"port {port} ({name})", "needs more rights", f"choose another: --port {name}=NUMBER")
        if reason:
            raise ConfigError("--bind", f"cannot listen on {host}: {os.strerror(reason)}", "name an address of here")


def _refused(host: str, port: int) -> int:
    """The errno of listening there; 0 if it can be done."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # closed connections of an earlier run do not count
        try:
            probe.bind((host, port))
            probe.listen(1)
        except socket.gaierror:
            return errno.EADDRNOTAVAIL
        except OSError as error:
            return error.errno or errno.EIO
    return 0
