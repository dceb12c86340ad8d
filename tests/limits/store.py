"""What the tests of this folder ask of a server, and the rules and amounts that they ask with."""

from __future__ import annotations

from collections.abc import Sequence

from valkey import Valkey
from valkey.exceptions import NoScriptError

from extproc.limits.counters import Counter, Kind, Rule, Span, Window
from extproc.limits.rules import key_prefix
from extproc.limits.scripts import Booking, Name, Reply, read, script


def call(client: Valkey, name: Name, arguments: Sequence[bytes]) -> list:
    """EVALSHA, and SCRIPT LOAD where the server does not know the script."""
    wanted = script(name)
    try:
        return client.execute_command("EVALSHA", wanted.sha, *arguments)
    except NoScriptError:
        assert client.script_load(wanted.source).encode() == wanted.sha
        return client.execute_command("EVALSHA", wanted.sha, *arguments)


def ask(client: Valkey, name: Name, arguments: Sequence[bytes], bookings: Sequence[Booking]) -> Reply:
    return read(call(client, name, arguments), bookings)


def clock(client: Valkey) -> int:
    """Milliseconds."""
    seconds, micros = client.time()
    return seconds * 1000 + micros // 1000


def counter(organisation: str, rule: Rule, value: str = "v") -> Counter:
    key = f"{key_prefix(organisation)}c:{rule.name}:{rule.kind}:{rule.window}:{value}"
    return Counter(rule, organisation, value, key.encode())


def month(name: str = "month", limit: int = 100, **more: object) -> Rule:
    return Rule(name, Kind.MONEY, Window.MONTH, limit, **more)


def bucket(name: str = "bucket", limit: int = 100, **more: object) -> Rule:
    return Rule(name, Kind.TOKENS, Window.BUCKET, limit, **({"burst": limit, "period": 1000} | more))


def flights(name: str = "flights", limit: int = 3, **more: object) -> Rule:
    return Rule(name, Kind.REQUESTS, Window.CONCURRENT, limit, **more)


def tiles(now: int, width: int) -> Span:
    """The windows of `width` milliseconds that tile time."""
    start = now - now % width
    return Span(start, start + width, start + 2 * width)


def book(counted: Counter, amount: int, now: int = 0, width: int = 10**9) -> Booking:
    """On today's terms. `now` is needed for calendar windows."""
    calendar = counted.rule.window not in {Window.BUCKET, Window.CONCURRENT}
    return Booking(counted, amount, counted.rule.limit, tiles(now, width) if calendar else None)
