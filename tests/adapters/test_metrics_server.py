from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from pathlib import Path

import httpx2
import msgspec
import pytest
import pytest_asyncio
from prometheus_client import CollectorRegistry, Counter

from extproc.adapters.metrics_server import MetricsServer, split_address
from extproc.errors import ConfigError


class Part(msgspec.Struct):
    worker: str


class Site:
    def __init__(self, folder: Path) -> None:
        own = CollectorRegistry()
        Counter("llm_worker_starts", "Started.", registry=own).inc(2)
        self.health: Mapping[str, object] = {"ok": True, "workers": (Part("w0"),)}
        self.server = MetricsServer(folder, own, lambda: self.health)
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@pytest_asyncio.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    one = Site(tmp_path)
    one.port = await one.server.start("127.0.0.1:0")
    yield one
    await one.server.close()


async def test_metrics_in_both_formats(site: Site) -> None:
    """Prometheus text by default, OpenMetrics to who asks for it."""
    async with httpx2.AsyncClient() as client:
        plain = await client.get(f"{site.url}/metrics?x=1")
        openmetrics = await client.get(f"{site.url}/metrics", headers={"accept": "application/openmetrics-text"})

    assert plain.status_code == 200
    assert "llm_worker_starts_total 2.0" in plain.text
    assert openmetrics.headers["content-type"].startswith("application/openmetrics-text")
    assert openmetrics.text.endswith("# EOF\n")


async def test_health_has_its_detail_and_its_status(site: Site) -> None:
    """200 while `ok`, 503 with the same detail when not."""
    async with httpx2.AsyncClient() as client:
        good = await client.get(f"{site.url}/healthz")
        site.health = {"ok": False, "config": "generation 3 refused: aliases.fast"}
        bad = await client.get(f"{site.url}/healthz")

    assert (good.status_code, good.json()) == (200, {"ok": True, "workers": [{"worker": "w0"}]})
    assert (bad.status_code, bad.json()["config"]) == (503, "generation 3 refused: aliases.fast")


async def test_other_paths_and_methods_are_refused(site: Site) -> None:
    """404, 405, and HEAD without a body."""
    async with httpx2.AsyncClient() as client:
        assert (await client.get(f"{site.url}/")).status_code == 404
        assert (await client.post(f"{site.url}/metrics")).status_code == 405
        head = await client.head(f"{site.url}/metrics")

    assert head.status_code == 200
    assert head.content == b""
    assert int(head.headers["content-length"]) > 0


@pytest.mark.parametrize("sent", [b"", b"\x00\xff\r\n\r\n", b"GET", b"x" * 100_000])
async def test_nonsense_ends_its_own_connection_only(site: Site, sent: bytes) -> None:
    """A half request, bytes of another protocol, an endless line: the server answers the next client."""
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(sent)
    writer.write_eof()
    with suppress(ConnectionError):
        await asyncio.wait_for(reader.read(), 5)
    writer.close()

    async with httpx2.AsyncClient() as client:
        assert (await client.get(f"{site.url}/healthz")).status_code == 200


async def test_a_broken_file_is_an_error_answer(site: Site, tmp_path: Path) -> None:
    """The endpoint says that it cannot read, and health still answers."""
    (tmp_path / "counter_w0.db").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00\xff\xff\xff\x7f" + b"\x00" * 100)

    async with httpx2.AsyncClient() as client:
        answer = await client.get(f"{site.url}/metrics")
        health = await client.get(f"{site.url}/healthz")

    assert answer.status_code == 500
    assert "cannot read" in answer.text
    assert json.loads(health.text)["ok"]


@pytest.mark.parametrize("address", ["9464", ":9464", "localhost:", "localhost:http", "1.2.3.4:70000"])
def test_an_address_that_is_none_is_a_config_error(address: str) -> None:
    """With the path of the setting."""
    with pytest.raises(ConfigError) as caught:
        split_address(address)

    assert caught.value.path == "metrics.address"


def test_addresses_of_both_families() -> None:
    """Brackets are taken off."""
    assert split_address("127.0.0.1:9464") == ("127.0.0.1", 9464)
    assert split_address("[::1]:0") == ("::1", 0)


async def test_a_port_in_use_is_a_config_error(site: Site, tmp_path: Path) -> None:
    """Not a stack trace."""
    with pytest.raises(ConfigError, match="cannot listen"):
        await MetricsServer(tmp_path, CollectorRegistry(), dict).start(f"127.0.0.1:{site.port}")
