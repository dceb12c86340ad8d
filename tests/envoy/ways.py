"""The ways into the gateway, as HTTP clients for the vendors' SDKs."""

from __future__ import annotations

import functools
import inspect
import re
import ssl
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import anthropic
import httpcore2
import httpx2
import openai
from prometheus_client.parser import text_string_to_metric_families

from envoy.machine import HOSTS, Machine

T = TypeVar("T")

VERSIONS = ("h1", "h2")
SDKS = {"openai": (openai.OpenAI, openai.AsyncOpenAI), "anthropic": (anthropic.Anthropic, anthropic.AsyncAnthropic)}


@dataclass(frozen=True)
class Way:
    """`entry`: how an app gets here; `version`: h1 or h2; `mode`: the SDK's sync or async client."""

    entry: str
    version: str
    mode: str

    def __str__(self) -> str:
        return f"{self.entry}-{self.version}-{self.mode}"


ENTRIES = ("intercept", "connect", "base_url", "base_url_tls")
WAYS = [Way(entry, version, mode) for entry in ENTRIES for version in VERSIONS for mode in ("sync", "async")]


class Redirecting(httpcore2.SyncBackend):
    """Connects to one address whatever the name: what a DNS answer or a route does. TLS and HTTP know the name only."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._port = port

    def connect_tcp(self, host: str, port: int, *args: Any, **options: Any) -> httpcore2.NetworkStream:
        assert port == 443, "an unmodified SDK calls the vendor's own port"
        return super().connect_tcp("127.0.0.1", self._port, *args, **options)


class AsyncRedirecting(httpcore2.AnyIOBackend):
    """The same for asyncio."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._port = port

    async def connect_tcp(self, host: str, port: int, *args: Any, **options: Any) -> httpcore2.AsyncNetworkStream:
        assert port == 443, "an unmodified SDK calls the vendor's own port"
        return await super().connect_tcp("127.0.0.1", self._port, *args, **options)


@functools.lru_cache(maxsize=64)
def trust(bundle: str, _version: str = "") -> ssl.SSLContext:
    """TLS that trusts this bundle and nothing else. One per HTTP version: httpcore writes the ALPN names into it."""
    return ssl.create_default_context(cafile=bundle)


def transport(gateway: Machine, way: Way) -> Any:
    """An httpx2 transport for the way."""
    kind = httpx2.HTTPTransport if way.mode == "sync" else httpx2.AsyncHTTPTransport
    options: dict[str, Any] = {"http1": way.version == "h1", "http2": way.version == "h2"}
    options["verify"] = trust(str(gateway.bundle), str(way))
    if way.entry == "connect":
        options["proxy"] = f"http://127.0.0.1:{gateway.ports['connect']}"
    made = kind(**options)
    if way.entry == "intercept":
        backend = Redirecting if way.mode == "sync" else AsyncRedirecting
        made._pool._network_backend = backend(gateway.ports["intercept"])
    return made


def client(gateway: Machine, api: str, way: Way, **options: Any) -> Any:
    """The vendor's SDK. Over `intercept` and `connect` it keeps the vendor's own URL."""
    kind = httpx2.Client if way.mode == "sync" else httpx2.AsyncClient
    http = kind(transport=transport(gateway, way), trust_env=False, timeout=20)
    if way.entry.startswith("base_url"):
        options["base_url"] = gateway.url(way.entry) + ("/v1" if api == "openai" else "")
    sdk = SDKS[api][way.mode == "async"]
    made = sdk(**{"api_key": gateway.key, "max_retries": 0, "http_client": http, **options})
    if not way.entry.startswith("base_url"):
        assert made.base_url.host == HOSTS[api]
    return made


async def settle(value: Any) -> Any:
    """What a call of either kind of client gives."""
    return await value if inspect.isawaitable(value) else value


async def collect(stream: Any) -> list[Any]:
    """Every event of a stream of either kind of client."""
    if isinstance(stream, Iterable):
        return list(stream)
    return [event async for event in stream]


def raw(gateway: Machine, entry: str = "base_url", version: str = "h1", **options: Any) -> httpx2.Client:
    """A plain HTTP client on the way, with no header of its own but what HTTP needs."""
    made = httpx2.Client(
        transport=transport(gateway, Way(entry, version, "sync")), trust_env=False, timeout=20, **options
    )
    made.headers.clear()
    return made


def origin(gateway: Machine, entry: str, api: str) -> str:
    """The URL before the path: the vendor's own, or the gateway's."""
    if not entry.startswith("base_url"):
        return f"https://{HOSTS[api]}"
    return f"{gateway.url(entry)}/{api}"


def wait_for(what: Callable[[], T], timeout: float = 5) -> T:
    """Wait until it is true; its last value."""
    deadline = time.monotonic() + timeout
    while not (value := what()) and time.monotonic() < deadline:
        time.sleep(0.03)
    return value


def numbers(machine: Machine, name: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample of the gateway's own endpoint (`metrics`) or of Envoy's (`admin`), by name and labels."""
    text = machine.get(name, "/metrics" if name == "metrics" else "/stats/prometheus")
    if name == "admin":  # the rest is thousands of lines about Envoy itself
        text = "".join(
            line + "\n" for line in text.splitlines() if re.match(r"(# TYPE )?envoy_\w*(llm|rds|cds)_", line)
        )
    families = text_string_to_metric_families(text)
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}
