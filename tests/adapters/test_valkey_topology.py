"""The store by its address: one server, Sentinels with a fail-over, passwords and certificates by reference."""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from extproc.adapters import pki, valkey_link, valkey_topology
from extproc.adapters.valkey_client import (
    ConnectionLostError,
    Endpoint,
    Login,
    NoScriptError,
    StoreAwayError,
    StoreError,
    UnavailableError,
)
from extproc.adapters.valkey_cluster import Cluster
from extproc.adapters.valkey_topology import Sentinels, Store, make_store
from extproc.config import quotas
from extproc.config.units import SecretRef
from extproc.errors import ConfigError
from valkeys import cluster, free_port, relay, sentinels, server, wait_for

SOURCE = b"return redis.call('INCRBY', KEYS[1], ARGV[1])"
SHA = hashlib.sha1(SOURCE).hexdigest().encode()
KEY = b"xq:{org}:n"
NOWHERE = Path("/nowhere/embedded.sock")


def made(url: str, environ: dict[str, str] | None = None, **options: object) -> Store:
    """A store by its address."""
    return make_store(quotas.Store.model_validate({"url": url, **options}), NOWHERE, environ or {})


def add(store: Store, amount: int = 1) -> Awaitable[object]:
    return store.script(KEY, SHA, SOURCE, (b"1", KEY, b"%d" % amount))


async def eventually(what: Callable[[], Awaitable[object]], within: float = 15.0) -> object:
    """The first result that is no `StoreError`."""
    until = time.monotonic() + within
    while True:
        try:
            return await what()
        except StoreError:
            assert time.monotonic() < until
            await asyncio.sleep(0.01)


# ---- one server


async def test_scripts_are_loaded_when_they_are_missing() -> None:
    """A server that knows no script gets it, after SCRIPT FLUSH again; 50 calls at once all get their answer."""
    with server() as own:
        store = made(f"unix://{own.path}")
        assert await store.connect(5), store.trouble
        assert await add(store) == 1
        own.client().script_flush()
        assert sorted(await asyncio.gather(*(add(store) for _ in range(50)))) == list(range(2, 52))
        assert await store.call(KEY, (b"GET", KEY)) == b"51"
        own.client().script_flush()
        with pytest.raises(NoScriptError):  # as it is: what is refused is the caller's to sort out
            await store.send(KEY, (b"EVALSHA", SHA, b"1", KEY, b"1"))
        assert await store.send(KEY, (b"INCR", KEY)) == 52
        await store.close()
        with pytest.raises(StoreAwayError, match="closed"):
            store.send(KEY, (b"INCR", KEY))


async def test_a_server_that_is_killed_and_comes_back() -> None:
    """What is under way is unknown, what comes meanwhile fails at once, then it goes on; both ends are told once."""
    told: list[str] = []
    with server(port=free_port()) as own:
        store = made(f"valkey://127.0.0.1:{own.port}/2")
        store.on_connected = lambda name: told.append(f"up {name}")
        store.on_lost = lambda name, reason: told.append(f"lost {name}")
        assert await store.connect(5), store.trouble
        assert await add(store) == 1
        first = store.since(KEY)
        os.kill(own.pid, signal.SIGSTOP)
        waiting = asyncio.ensure_future(add(store))  # type: ignore[arg-type]
        await asyncio.sleep(0.01)
        own.kill()
        with pytest.raises(ConnectionLostError):
            await waiting
        began = time.monotonic()
        for _ in range(100):
            with pytest.raises(StoreAwayError):
                await add(store)
        assert time.monotonic() - began < 0.5
        assert (store.connected, store.since(KEY)) == (False, None)
        assert store.trouble
        own.start()
        assert await eventually(lambda: add(store)) == 1
        second = store.since(KEY)
        assert first is not None
        assert second is not None
        assert second > first
        await store.close()
    name = f"127.0.0.1:{own.port}"
    assert told == [f"up {name}", f"lost {name}", f"up {name}"]


async def test_it_starts_without_a_server() -> None:
    """A worker that starts while the store is away is not held up, and gets it when it comes."""
    with server() as own:
        own.kill()
        store = made(f"unix://{own.path}")
        assert not await store.connect(0.05)
        with pytest.raises(StoreAwayError):
            await add(store)
        own.start()
        assert await eventually(lambda: add(store)) == 1
        await store.close()


async def test_a_replica_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """READONLY: nothing was done, the connection is given up, and after the change of roles calls go on."""
    with server(port=free_port()) as own:
        store = made(f"unix://{own.path}")
        lost: list[str] = []
        store.on_lost = lambda _name, reason: lost.append(reason)
        assert await store.connect(5), store.trouble
        own.client().replicaof("127.0.0.1", free_port())
        with pytest.raises(StoreError, match="READONLY"):
            await add(store)
        assert len(lost) == 1
        assert "no longer the primary" in lost[0]
        own.client().replicaof("NO", "ONE")
        assert await eventually(lambda: add(store)) == 1
        await store.close()


async def test_a_server_that_loads_its_data() -> None:
    """A server that reads its data at the start is away until it has, and the reason is told."""
    with server("--enable-debug-command", "yes") as own:
        own.client().execute_command("DEBUG", "POPULATE", 20000)
        own.client().save()
        own.kill()
        own.options = (*own.options, "--key-load-delay", "50", "--loading-process-events-interval-bytes", "1024")
        own.launch()
        store = made(f"unix://{own.path}")
        await store.connect(0)
        for _ in range(2000):
            if "LOADING" in store.trouble:
                break
            await asyncio.sleep(0.002)
        assert "LOADING" in store.trouble
        with pytest.raises((StoreAwayError, UnavailableError), match="LOADING"):
            await add(store)
        assert await eventually(lambda: add(store)) == 1
        await store.close()


async def test_a_node_of_a_cluster_by_the_wrong_address() -> None:
    """A cluster under `valkey://`: the answer says what to write."""
    with cluster() as nodes:
        stores = [made(f"unix://{node.path}") for node in nodes]
        for store in stores:
            assert await store.connect(5), store.trouble
        outcomes = await asyncio.gather(*(add(store) for store in stores), return_exceptions=True)
        for store in stores:
            await store.close()
    assert outcomes.count(1) == 1
    told = [str(outcome) for outcome in outcomes if isinstance(outcome, StoreError)]
    assert len(told) == 2
    assert all("write valkey+cluster:// in quotas.store.url" in text for text in told)


# ---- passwords and certificates


async def test_the_password_by_reference(tmp_path: Path) -> None:
    """From a variable or a file; a changed file is taken at the next attempt; neither error nor trouble shows it."""
    password, other = secrets.token_hex(16), secrets.token_hex(16)
    file = tmp_path / "password"
    file.write_text(other + "\n")
    with server("--requirepass", password, password=password) as own:
        store = made(f"unix://{own.path}", {"STORE": password}, password={"env": "STORE"})
        assert await store.connect(5), store.trouble
        await store.close()
        store = make_store(quotas.Store(url=f"unix://{own.path}", password=SecretRef(file=file)), NOWHERE, {})
        assert not await store.connect(0.1)
        assert store.trouble.startswith("WRONGPASS")
        assert other not in store.trouble
        file.write_text(password + "\n")
        assert await eventually(lambda: add(store)) == 1
        await store.close()


@pytest.mark.parametrize(
    ("reference", "place"),
    [
        (SecretRef(env="STORE"), r"quotas\.store\.password\.env: the variable STORE is not set"),
        (SecretRef(file=Path("/nowhere/p")), r"quotas\.store\.password\.file: cannot be read: No such file"),
        (SecretRef(file=Path("/dev/null")), r"quotas\.store\.password\.file: is empty"),
    ],
)
def test_a_password_that_is_not_there(reference: SecretRef, place: str) -> None:
    """Told at the start, by place and cure."""
    with pytest.raises(ConfigError, match=place) as caught:
        make_store(quotas.Store(url="valkey://h", password=reference), NOWHERE, {"STORE": ""})
    assert caught.value.hint


async def test_a_password_file_that_goes_away_is_told(tmp_path: Path) -> None:
    """The file is gone after the start: the store is away and says why."""
    file = tmp_path / "password"
    file.write_text(secrets.token_hex(8))
    store = make_store(quotas.Store(url="unix:///nowhere/s", password=SecretRef(file=file)), NOWHERE, {})
    file.unlink()
    assert not await store.connect(0.05)
    assert "quotas.store.password.file: cannot be read" in store.trouble
    await store.close()


async def test_tls_by_its_address(tmp_path: Path) -> None:
    """`valkeys://` with a CA of one's own serves; without it the certificate is refused and the reason is told."""
    authority = pki.create_ca(tmp_path / "ca", "test", hosts=["127.0.0.1"])
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    with server() as own:
        async with relay(own.path, authority.issue(["127.0.0.1"]).server_context(alpn=())) as (port, _):
            config = quotas.Store(url=f"valkeys://127.0.0.1:{port}", ca=tmp_path / "ca.pem")
            store = make_store(config, NOWHERE, {})
            assert await store.connect(5), store.trouble
            assert await add(store) == 1
            await store.close()
            store = made(f"valkeys://127.0.0.1:{port}")
            assert not await store.connect(0.2)
            assert "issuer certificate" in store.trouble
            await store.close()


@pytest.mark.parametrize("content", [None, b"", b"not a certificate"])
def test_certificates_that_cannot_be_used(tmp_path: Path, content: bytes | None) -> None:
    """Told at the start."""
    if content is not None:
        (tmp_path / "ca.pem").write_bytes(content)
    with pytest.raises(ConfigError, match=r"quotas\.store\.ca: cannot be used") as caught:
        make_store(quotas.Store(url="valkeys://h", ca=tmp_path / "ca.pem"), NOWHERE, {})
    assert caught.value.hint


def test_every_form_of_address() -> None:
    """Each form finds its way to its kind of servers."""
    names = {
        "embedded": f"unix:{NOWHERE}",
        "unix:///run/v.sock": "unix:/run/v.sock",
        "redis://h": "h:6379",
        "valkey://[::1]:7/1": "[::1]:7",
        "valkey+sentinel://a,b:1/main": "main",
    }
    for url, name in names.items():
        (link,) = made(url)._nodes.links
        assert link.name == name
    assert isinstance(made("valkey+cluster://a,b")._nodes, Cluster)


# ---- Sentinels


async def test_a_fail_over() -> None:
    """The primary is killed: calls go on at the new one, within a bounded time; the old one that comes back is not used."""
    with sentinels() as group:
        store = made(group.url)
        assert await store.connect(5), store.trouble
        stranger = made(group.url + "ly")
        assert not await stranger.connect(0.1)
        assert "does not know mymasterly" in stranger.trouble
        await stranger.close()
        for number in range(1, 51):
            assert await add(store) == number
        wait_for(lambda: group.replica.client().get(KEY) == b"50")
        first = store.since(KEY)
        group.primary.kill()
        for _ in range(1000):
            if not store.connected:
                break
            await asyncio.sleep(0.005)
        with pytest.raises(StoreAwayError):
            await add(store)
        assert await eventually(lambda: add(store), within=20) == 51
        assert group.replica.client().get(KEY) == b"51"
        second = store.since(KEY)
        assert first is not None
        assert second is not None
        assert second > first
        group.primary.start()
        assert await eventually(lambda: add(store)) == 52
        assert group.replica.client().get(KEY) == b"52"
        await store.close()


async def test_a_primary_that_was_replaced_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fail-over on command: nobody hangs up on us, the Sentinels are asked, and we move over."""
    monkeypatch.setattr(valkey_topology, "_POLL", 0.05)
    monkeypatch.setattr(valkey_link, "LOOK", 0.05)
    with sentinels() as group:
        store = made(group.url)
        lost: list[str] = []
        store.on_lost = lambda _name, reason: lost.append(reason)
        assert await store.connect(5), store.trouble
        assert await add(store) == 1
        group.watchers[0].client().execute_command("SENTINEL", "FAILOVER", group.name)
        wait_for(lambda: group.replica.client().role()[0] == b"master", 20)
        await eventually(lambda: add(store), within=20)
        for _ in range(1000):
            value = await eventually(lambda: add(store))
            if group.replica.client().get(KEY) == b"%d" % value:  # type: ignore[str-format]
                break
            await asyncio.sleep(0.01)
        else:
            raise AssertionError(lost)
        assert lost
        await store.close()


async def test_most_sentinels_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    """One says otherwise, one is dead: what most say is taken; where nobody answers it is away, and says so."""
    right, wrong = Endpoint("10.0.0.1", 1), Endpoint("10.0.0.2", 2)
    said = {"a": wrong, "b": right, "c": right}
    asked = Sentinels([Endpoint(name, 1) for name in "abcd"], "main", Login)

    async def ask(host: Endpoint, _login: Login) -> Endpoint:
        if host.host not in said:
            raise StoreAwayError(f"{host} cannot be reached")
        return said[host.host]

    monkeypatch.setattr(asked, "_ask", ask)
    assert await asked._primary(Login()) == right
    said.clear()
    with pytest.raises(StoreAwayError, match="no Sentinel names the primary of main: a:1 cannot be reached"):
        await asked._primary(Login())


async def test_a_name_that_sentinels_do_not_know_and_their_password() -> None:
    """An unknown service is told; a Sentinel with a password gets the store's own."""
    password = secrets.token_hex(16)
    with server("--requirepass", password, port=free_port(), password=password) as own:
        # a plain server knows no command SENTINEL, but it does want a password
        store = made(f"valkey+sentinel://127.0.0.1:{own.port}/main", {"S": password}, password={"env": "S"})
        assert not await store.connect(0.1)
        assert "unknown command" in store.trouble
        assert password not in store.trouble
        await store.close()
        store = made(f"valkey+sentinel://127.0.0.1:{own.port}/main")
        assert not await store.connect(0.1)
        assert "NOAUTH" in store.trouble
        await store.close()
