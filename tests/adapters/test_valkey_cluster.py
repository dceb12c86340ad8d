"""A cluster of three: keys find their node, slots move under the calls, a dead node takes only its own keys away."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from valkey.crc import key_slot

from extproc.adapters.valkey_client import AskError, Endpoint, Login, MovedError, StoreAwayError, StoreError
from extproc.adapters.valkey_cluster import Cluster, slot_of
from extproc.adapters.valkey_topology import Store
from valkeys import Server, cluster, wait_for

SOURCE = b"redis.call('INCR', KEYS[1]) return redis.call('INCRBY', KEYS[2], ARGV[1])"
SHA = hashlib.sha1(SOURCE).hexdigest().encode()


def keys(organisation: str) -> tuple[bytes, bytes]:
    return f"xq:{{{organisation}}}:a".encode(), f"xq:{{{organisation}}}:b".encode()


def organisations(count: int = 3) -> list[str]:
    """One whose keys are in each third of the slots."""
    found: dict[int, str] = {}
    for number in range(1000):
        name = f"org{number}"
        found.setdefault(slot_of(keys(name)[0]) * count // 16384, name)
    return [found[index] for index in range(count)]


@pytest.fixture
def nodes() -> Iterator[list[Server]]:
    with cluster() as started:
        yield started


@pytest.fixture
async def store(nodes: list[Server]) -> AsyncIterator[Store]:
    made = Store(Cluster([Endpoint("127.0.0.1", 1), Endpoint("127.0.0.1", nodes[1].port)], Login))
    assert await made.connect(5), made.trouble
    try:
        yield made
    finally:
        await made.close()


async def run(store: Store, organisation: str, amount: int = 1) -> object:
    a, b = keys(organisation)
    return await store.script(a, SHA, SOURCE, (b"2", a, b, b"%d" % amount))


def node_of(nodes: list[Server], organisation: str) -> Server:
    """Who holds the keys."""
    slot = slot_of(keys(organisation)[0])
    for first, last, (_, port, *_), *_ in nodes[0].client().execute_command("CLUSTER", "SLOTS"):
        if first <= slot <= last:
            return next(node for node in nodes if node.port == port)
    raise AssertionError(slot)


@given(st.binary(max_size=40) | st.sampled_from([b"{}a", b"{a}b", b"x{a}{b}", b"a}b{c}", b"{", b"{}{a}", b"x{y"]))
def test_slots_are_those_of_the_library(key: bytes) -> None:
    """CRC16 of the hash tag, as the library has it."""
    assert slot_of(key) == key_slot(key)


async def test_each_organisation_on_its_node(nodes: list[Server], store: Store) -> None:
    """Three organisations, three nodes, scripts with two keys each: one seed is dead, the map is learned from the other."""
    names = organisations()
    assert [await run(store, name) for name in names for _ in range(2)] == [1, 2] * 3
    homes = [node_of(nodes, name) for name in names]
    assert len({home.port for home in homes}) == 3
    for name, home in zip(names, homes, strict=True):
        assert home.client().get(keys(name)[1]) == b"2"
    assert await store.call(keys(names[0])[0], (b"GET", keys(names[0])[0])) == b"2"
    assert store.connected
    assert store.trouble == ""


def move(nodes: list[Server], slot: int, source: Server, target: Server) -> Iterator[str]:
    """Move a slot as `valkey-cli --cluster reshard` does, step by step."""
    ids = {node.port: node.client().execute_command("CLUSTER", "MYID").decode() for node in nodes}
    target.client().execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source.port])
    source.client().execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target.port])
    yield "begun"
    held = source.client().execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100)
    for key in held:
        source.client().execute_command("MIGRATE", "127.0.0.1", target.port, key, 0, 5000)
        yield "key moved"
    for node in (target, source, *nodes):
        node.client().execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[target.port])
    yield "moved"


async def test_a_slot_moves_while_it_is_called(nodes: list[Server], store: Store) -> None:
    """Calls go on through each step of a move, also while one of two keys has moved; none is lost, none is done twice."""
    name = organisations()[0]
    source = node_of(nodes, name)
    target = next(node for node in nodes if node is not source)
    done = 0
    steps = move(nodes, slot_of(keys(name)[0]), source, target)
    refused: list[tuple[str, str]] = []
    for _ in range(3):
        await run(store, name)
        done += 1
    for step in steps:
        for _ in range(3):
            try:
                await run(store, name)
                done += 1
            except StoreError as error:  # half moved for longer than a call follows
                refused.append((step, str(error).partition(" ")[0]))
    assert set(refused) <= {("key moved", "TRYAGAIN")}
    assert len(refused) <= 3
    assert await run(store, name, 0) == done
    assert node_of(nodes, name) is target
    assert target.client().get(keys(name)[0]) == b"%d" % (done + 1)


async def test_after_a_move_the_map_is_right(nodes: list[Server], store: Store) -> None:
    """One answer of MOVED is followed, and later calls go to the right node at once."""
    name = organisations()[1]
    source = node_of(nodes, name)
    target = next(node for node in nodes if node is not source)
    assert [*await asyncio.to_thread(list, move(nodes, slot_of(keys(name)[0]), source, target))][-1] == "moved"
    assert await run(store, name) == 1
    before = source.client().info("stats")["total_error_replies"]
    assert await run(store, name) == 2
    assert source.client().info("stats")["total_error_replies"] == before


async def test_a_dead_node_takes_only_its_keys_away(nodes: list[Server], store: Store) -> None:
    """Its organisations are away at once, the others go on; it is back: they go on too, and users know since when."""
    names = organisations()
    for name in names:
        await run(store, name)
    lost: list[str] = []
    store.on_lost = lambda node, _reason: lost.append(node)
    victim = node_of(nodes, names[0])
    before = store.since(keys(names[0])[0])
    victim.kill()
    for _ in range(1000):
        if not store.connected:
            break
        await asyncio.sleep(0.005)
    with pytest.raises(StoreAwayError):
        await run(store, names[0])
    assert store.since(keys(names[0])[0]) is None
    assert str(victim.port) in store.trouble
    assert [await run(store, name) for name in names[1:]] == [2, 2]
    assert lost == [f"127.0.0.1:{victim.port}"]
    victim.launch()
    for _ in range(2000):
        try:
            await run(store, names[0])
            break
        except StoreError:
            await asyncio.sleep(0.01)
    after = store.since(keys(names[0])[0])
    assert before is not None
    assert after is not None
    assert after > before
    assert [await run(store, name) for name in names[1:]] == [3, 3]


async def test_a_replica_takes_over() -> None:
    """A primary with a replica is killed: its keys are away for the cluster's own fail-over, then served by the replica."""
    with cluster(3, replicas=1) as nodes:
        made = Store(Cluster([Endpoint("127.0.0.1", node.port) for node in nodes], Login))
        assert await made.connect(5), made.trouble
        name = organisations()[0]
        assert [await run(made, name) for _ in range(3)] == [1, 2, 3]
        primary, replica = nodes[0], nodes[3]
        assert node_of(nodes, name) is primary
        wait_for(lambda: replica.client().info("replication")["slave_repl_offset"] > 0)
        primary.client().execute_command("WAIT", 1, 1000)
        primary.kill()
        until = asyncio.get_running_loop().time() + 20
        answer: object = None
        while answer is None and asyncio.get_running_loop().time() < until:
            try:
                answer = await run(made, name)
            except StoreError:
                await asyncio.sleep(0.02)
        assert answer == 4
        assert replica.client().role()[0] == b"master"
        await made.close()


async def test_no_node_answers() -> None:
    """No seed is there: calls fail at once and say so, and the end is in order."""
    store = Store(Cluster([Endpoint(path="/nowhere/s")], Login))
    assert not await store.connect(0.05)
    assert "cannot be reached" in store.trouble
    with pytest.raises(StoreAwayError):
        await run(store, "org")
    assert store.since(b"{org}") is None
    await store.close()


async def test_what_points_nowhere_is_not_followed() -> None:
    """An answer without a port is given on; one without a host means the node that was asked."""
    made = Cluster([], Login)
    first = made._know(Endpoint("::1", 1))
    key = b"{org}"
    moved = made.moved(MovedError("MOVED", f"{slot_of(key)} :2"), first)
    assert moved.name == "[::1]:2"
    assert made.link(key) is moved
    assert made.moved(AskError("ASK", f"{slot_of(key)} 127.0.0.1:3"), first).name == "127.0.0.1:3"
    assert made.link(key) is moved, "ASK is for one call"
    with pytest.raises(MovedError):
        made.moved(MovedError("MOVED", "nonsense"), first)
    with pytest.raises(StoreAwayError, match="no node of the cluster has the slot"):
        made.link(b"{another}")
    await made.close()
