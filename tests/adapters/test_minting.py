"""The minting service, asked as Envoy asks it: incremental SDS over a Unix socket."""

from __future__ import annotations

import asyncio
import datetime as dt
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from structlog.testing import capture_logs

from adapters.handshakes import handshake, strict_client
from extproc.adapters import minting, pki_chain
from extproc.adapters._pb import secrets_pb2 as pb
from extproc.adapters.minting import SERVICE, TYPE_URL, Minter, MintServer, mark_rotation
from extproc.adapters.pki import Leaf
from extproc.adapters.pki_chain import ChainPlan
from extproc.errors import ConfigError

HOSTS = ("api.openai.com", "api.anthropic.com")
LIFE = 86_400.0


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    pki_chain.create_chain(tmp_path / "ca", ChainPlan("test", HOSTS))
    return tmp_path / "ca"


@pytest.fixture
def minter(ca: Path) -> Minter:
    return Minter(ca, HOSTS, LIFE)


class Asking:
    """One stream."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        method = channel.stream_stream(
            f"/{SERVICE}/DeltaSecrets",
            request_serializer=pb.DeltaDiscoveryRequest.SerializeToString,
            response_deserializer=pb.DeltaDiscoveryResponse.FromString,
        )
        self.call: Any = method()

    async def send(self, *names: str, **fields: Any) -> None:
        """Subscribe, or acknowledge."""
        await self.call.write(pb.DeltaDiscoveryRequest(type_url=TYPE_URL, resource_names_subscribe=names, **fields))

    async def read(self) -> pb.DeltaDiscoveryResponse:
        """The next response."""
        response = await asyncio.wait_for(self.call.read(), 10)
        assert isinstance(response, pb.DeltaDiscoveryResponse)
        return response

    async def silent(self) -> bool:
        """Whether nothing comes for a while."""
        reading = asyncio.ensure_future(self.call.read())
        done, _ = await asyncio.wait((reading,), timeout=0.3)
        return not done


@asynccontextmanager
async def serving(minter: Minter, folder: Path) -> AsyncIterator[grpc.aio.Channel]:
    """The service on a socket of its own."""
    server = MintServer(minter, folder / "run" / "m.sock")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"unix:{folder / 'run' / 'm.sock'}") as channel:
            yield channel
    finally:
        await server.stop()


def leaf_of(resource: pb.Resource) -> Leaf:
    """The certificate and key in a resource."""
    assert resource.resource.type_url == TYPE_URL
    secret = pb.Secret.FromString(resource.resource.value)
    assert secret.name == resource.name
    tls = secret.tls_certificate
    return Leaf(tls.certificate_chain.inline_bytes, tls.private_key.inline_bytes)


async def test_an_allowed_name_gets_a_leaf(minter: Minter, ca: Path, tmp_path: Path) -> None:
    """One that a client takes, with its chain; a second stream gets the same; no file is written anywhere."""
    files = sorted(tmp_path.rglob("*"))
    async with serving(minter, tmp_path) as channel:
        first, second = Asking(channel), Asking(channel)
        await first.send("api.openai.com")
        await second.send("api.openai.com", "api.anthropic.com")
        (one,), both = (await first.read()).resources, (await second.read()).resources
        assert stat.S_IMODE((tmp_path / "run" / "m.sock").stat().st_mode) == 0o600
    leaf = leaf_of(one)
    handshake(strict_client((ca / "ca.pem").read_bytes()), leaf, "api.openai.com")
    assert [resource.name for resource in both] == ["api.openai.com", "api.anthropic.com"]
    assert both[0] == one
    assert len(x509.load_pem_x509_certificates(leaf.cert_pem)) == 2
    assert sorted(path for path in tmp_path.rglob("*") if path.name != "run") == files


@pytest.mark.parametrize(
    "name",
    [
        "evil.example",
        "x.api.openai.com",
        "API.OPENAI.COM",
        "api.openai.com.",
        "no-sni",
        "*.openai.com",
        "a" * 5000,
        "ä\n",
    ],
)
async def test_any_other_name_is_removed(minter: Minter, tmp_path: Path, name: str) -> None:
    """At once, so that the handshake ends; a subdomain that the CA could sign for too. The log has it, cut."""
    with capture_logs() as logs:
        async with serving(minter, tmp_path) as channel:
            asking = Asking(channel)
            await asking.send(name)
            response = await asking.read()
            assert (list(response.removed_resources), list(response.resources)) == ([name], [])
            await asking.send(name)
            await asking.read()
    refused = [entry for entry in logs if entry["event"] == "name refused"]
    assert [entry["name"] for entry in refused] == [name[:253]]


async def test_an_acknowledgement_is_not_answered(minter: Minter, tmp_path: Path) -> None:
    """A NACK neither, but it is in the log."""
    with capture_logs() as logs:
        async with serving(minter, tmp_path) as channel:
            asking = Asking(channel)
            await asking.send("api.openai.com")
            nonce = (await asking.read()).nonce
            await asking.send(response_nonce=nonce)
            await asking.send(response_nonce=nonce, error_detail=pb.Status(code=3, message="no such curve"))
            assert await asking.silent()
    assert [entry["reason"] for entry in logs if entry["log_level"] == "error"] == ["no such curve"]


async def test_a_leaf_is_replaced_in_time(minter: Minter, tmp_path: Path) -> None:
    """After two thirds of its life, on the stream that it was asked on, and nothing before."""
    now = dt.datetime.now(dt.UTC)
    async with serving(minter, tmp_path) as channel:
        asking = Asking(channel)
        await asking.send("api.openai.com", "evil.example")
        first = await asking.read()
        minter.look(now + dt.timedelta(hours=15.9))
        minter.look(now + dt.timedelta(hours=16.1))
        second = await asking.read()
    assert list(second.removed_resources) == []
    assert second.resources[0].name == "api.openai.com"
    assert second.resources[0].version != first.resources[0].version
    assert second.nonce != first.nonce


async def test_a_rotation_reaches_every_stream(minter: Minter, ca: Path, tmp_path: Path) -> None:
    """`ca rotate` and a new intermediate: seen within a second or so; a damaged CA leaves the old one signing."""
    async with serving(minter, tmp_path) as channel:
        streams = [Asking(channel) for _ in range(20)]
        for stream in streams:
            await stream.send("api.openai.com")
        versions = {(await stream.read()).resources[0].version for stream in streams}
        mark_rotation(ca)
        rotated = {(await stream.read()).resources[0].version for stream in streams}
        new = pki_chain.new_intermediate(ca, HOSTS)
        again = [(await stream.read()).resources[0] for stream in streams]
        (ca / "intermediate.pem").chmod(0o644)
        mark_rotation(ca)
        with capture_logs() as logs:
            await asyncio.sleep(1.2)
        fresh = Asking(channel)
        await fresh.send("api.anthropic.com")
        late = await fresh.read()
    assert [len(found) for found in (versions, rotated, {one.version for one in again})] == [1, 1, 1]
    assert len(versions | rotated | {one.version for one in again}) == 3
    x509.load_pem_x509_certificate(leaf_of(again[0]).cert_pem).verify_directly_issued_by(new.certificate)
    assert any("open to other users" in str(entry.get("reason")) for entry in logs)
    x509.load_pem_x509_certificate(leaf_of(late.resources[0]).cert_pem).verify_directly_issued_by(new.certificate)


async def test_only_a_change_of_the_issuer_replaces_leaves(minter: Minter, ca: Path, tmp_path: Path) -> None:
    """The next root, staged beside the one in use, changes nothing; a CA for fewer hosts is not taken."""
    async with serving(minter, tmp_path) as channel:
        asking = Asking(channel)
        await asking.send("api.openai.com")
        first = (await asking.read()).resources[0]
        pki_chain.stage_root(ca, ChainPlan("next", HOSTS))
        minter.look(dt.datetime.now(dt.UTC))
        pki_chain.new_intermediate(ca, HOSTS[:1])
        with capture_logs() as logs:
            minter.look(dt.datetime.now(dt.UTC))
        assert await asking.silent()
        fresh = Asking(channel)
        await fresh.send("api.openai.com")
        assert (await fresh.read()).resources[0] == first
    assert ["api.anthropic.com" in str(entry.get("reason")) for entry in logs] == [True]


async def test_leaves_are_made_at_a_pace(minter: Minter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the burst they wait their turn: a storm of names does not take the process."""
    monkeypatch.setattr(minting, "_BURST", 1.0)
    monkeypatch.setattr(minting, "_RATE", 5.0)
    minter._pace = minting._Pace()
    loop = asyncio.get_running_loop()
    async with serving(minter, tmp_path) as channel:
        asking, began = Asking(channel), loop.time()
        await asking.send("api.openai.com", "api.anthropic.com")
        await asking.read()
        took = loop.time() - began
        again = loop.time()
        await asking.send("api.openai.com")
        await asking.read()
        waited = loop.time() - again
    assert 0.15 < took < 5
    assert waited < took  # what is made already waits for nothing


async def test_streams_are_bounded(minter: Minter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more is refused, and one that has ended makes room."""
    monkeypatch.setattr(minting, "_STREAMS", 1)
    async with serving(minter, tmp_path) as channel:
        first = Asking(channel)
        await first.send("api.openai.com")
        await first.read()
        second = Asking(channel)
        assert await asyncio.wait_for(second.call.code(), 5) is grpc.StatusCode.RESOURCE_EXHAUSTED
        await first.call.done_writing()
        assert await asyncio.wait_for(first.call.code(), 5) is grpc.StatusCode.OK
        third = Asking(channel)
        await third.send("api.openai.com")
        assert (await third.read()).resources


def test_refused_names_do_not_fill_the_log(minter: Minter) -> None:
    """Each once a minute, and a bounded number of them."""
    with capture_logs() as logs:
        for number in range(2000):
            minter._refuse(f"n{number}.example")
    assert len(logs) == minting._TOLD == len(minter._told)


def test_a_ca_that_cannot_sign_is_refused_at_the_start(ca: Path) -> None:
    """An open key, a host beyond the constraints, no CA: an operator is told before the first handshake."""
    with pytest.raises(ConfigError, match="name constraints"):
        Minter(ca, [*HOSTS, "api.mistral.ai"], LIFE)
    (ca / "intermediate.pem").chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        Minter(ca, HOSTS, LIFE)
    with pytest.raises(ConfigError, match="ca init"):
        Minter(ca / "none", HOSTS, LIFE)


@pytest.mark.parametrize(("folder", "socket"), [(0o2770, 0o660), (0o2700, 0o600), (0o770, 0o600)])
async def test_the_socket_in_a_shared_folder(minter: Minter, tmp_path: Path, folder: int, socket: int) -> None:
    """Envoy of another user in the pod connects by the group of the volume; elsewhere only our own user may."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(folder)
    async with serving(minter, tmp_path):
        assert stat.S_IMODE((tmp_path / "run" / "m.sock").stat().st_mode) == socket


async def test_a_leaf_of_the_future_is_replaced(minter: Minter, tmp_path: Path) -> None:
    """Made while the clock was ahead: the open stream gets another as soon as the clock is right."""
    async with serving(minter, tmp_path) as channel:
        asking = Asking(channel)
        await asking.send("api.openai.com")
        first = (await asking.read()).resources[0]
        minter.look(dt.datetime.now(dt.UTC) - dt.timedelta(days=2))
        assert (await asking.read()).resources[0].version != first.version


async def test_a_folder_that_fails_does_not_end_the_looking(minter: Minter, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said once, and leaves are renewed when it is mended."""
    monkeypatch.setattr(minting, "_LOOK", 0.01)
    looks, real = 0, minter._files

    def files() -> tuple[tuple[int, int], ...]:
        nonlocal looks
        looks += 1
        if looks < 4:
            raise PermissionError(13, "Permission denied")
        return real()

    monkeypatch.setattr(minter, "_files", files)
    with capture_logs() as logs:
        running = asyncio.ensure_future(minter.run())
        for _ in range(500):
            await asyncio.sleep(0.01)
            if looks > 5:
                break
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert looks > 5
    assert ["Permission denied" in entry["reason"] for entry in logs] == [True]
