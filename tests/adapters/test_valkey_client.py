"""The lean connection, on a real server: order, cancelled callers, losses, logins, TLS; and on servers that misbehave."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.adapters import pki
from extproc.adapters.valkey_client import (
    AskError,
    Connection,
    ConnectionLostError,
    Endpoint,
    Login,
    LoginError,
    MovedError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RefusedError,
    StoreAwayError,
    UnavailableError,
    connect,
    refused,
)
from valkeys import Server, free_port, relay, server, short_folder


@pytest.fixture(scope="module")
def one() -> Iterator[Server]:
    with server() as started:
        yield started


@pytest.fixture
async def connection(one: Server) -> AsyncIterator[Connection]:
    made = await connect(Endpoint(path=str(one.path)), Login())
    await made.call((b"FLUSHALL",))
    yield made
    made.close()


@asynccontextmanager
async def speaking(*answers: bytes) -> AsyncIterator[Endpoint]:
    """A server that answers the first thing it hears with each of `answers` in turn, and then says nothing."""

    tasks: list[asyncio.Task[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.append(current := asyncio.current_task())  # type: ignore[arg-type]
        assert current is not None
        for answer in answers:
            await reader.read(65536)
            writer.write(answer)
        with suppress(asyncio.CancelledError, OSError):
            await reader.read()
        writer.transport.abort()

    with short_folder() as folder:
        running = await asyncio.start_unix_server(serve, folder / "s")
        try:
            yield Endpoint(path=str(folder / "s"))
        finally:
            running.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


# ---- answers and their order


async def test_answers_come_to_those_who_asked(connection: Connection) -> None:
    """1,000 calls at once, of all kinds of answers: each gets its own."""
    await connection.call((b"RPUSH", b"l", b"a", b"b"))
    calls = [connection.call((b"ECHO", b"%d" % number)) for number in range(1000)]
    missing, whole, nested = (
        connection.call((b"GET", b"no")),
        connection.call((b"INCR", b"n")),
        connection.call((b"LRANGE", b"l", b"0", b"-1")),
    )
    assert await asyncio.gather(*calls) == [b"%d" % number for number in range(1000)]
    assert (await missing, await whole, await nested) == (None, 1, [b"a", b"b"])
    assert connection.waiting == 0


async def test_calls_of_one_turn_go_out_in_one_send(connection: Connection) -> None:
    """What is called before the loop turns is one write."""
    sent: list[bytes] = []
    transport = connection._transport
    assert transport is not None

    class Counting:
        def write(self, data: bytes) -> None:
            sent.append(data)
            transport.write(data)

        def abort(self) -> None:
            transport.abort()

    connection._transport = Counting()  # type: ignore[assignment]
    await asyncio.gather(*(connection.call((b"PING",)) for _ in range(50)))
    assert len(sent) == 1
    await connection.call((b"PING",))
    assert len(sent) == 2


@settings(max_examples=30)
@given(rows=st.lists(st.tuples(st.binary(max_size=200), st.booleans()), min_size=1, max_size=40))
def test_a_cancelled_caller_does_not_shift_the_answers(one: Server, rows: list[tuple[bytes, bool]]) -> None:
    """Any of the callers go away: the others get their own answers, whatever bytes they are."""

    async def check(endpoint: Endpoint) -> None:
        connection = await connect(endpoint, Login())
        calls = [(connection.call((b"ECHO", text)), text, gone) for text, gone in rows]
        for future, _, gone in calls:
            if gone:
                future.cancel()
        for future, text, gone in calls:
            if not gone:
                assert await future == text
        assert await connection.call((b"ECHO", b"last")) == b"last"
        assert connection.waiting == 0
        connection.close()

    asyncio.run(check(Endpoint(path=str(one.path))))


async def test_a_caller_that_ran_out_of_time_leaves_its_answer(connection: Connection) -> None:
    """A timeout cancels the future while the server is at work; the next call gets its own answer."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await connection.call((b"BLPOP", b"never", b"0.2"))
    assert await connection.call((b"ECHO", b"mine")) == b"mine"


@pytest.mark.parametrize("size", [1, 2, 3, 7])
async def test_answers_may_come_in_any_pieces(size: int) -> None:
    """The same answers, a few bytes at a time."""
    made = Connection(Endpoint(path="/nowhere"))

    class Deaf(asyncio.Transport):
        def write(self, data: bytes) -> None:
            pass

        def abort(self) -> None:
            pass

    made.connection_made(Deaf())
    calls = [made.call((b"X",)) for _ in range(4)]
    data = b"*2\r\n:1\r\n$3\r\na\r\n\r\n$-1\r\n-ERR no\r\n+OK\r\n"
    for start in range(0, len(data), size):
        made.data_received(data[start : start + size])
    assert await calls[0] == [1, b"a\r\n"]
    assert await calls[1] is None
    with pytest.raises(RefusedError, match=r"^ERR no$"):
        await calls[2]
    assert await calls[3] == b"OK"
    made.close()


# ---- refusals


async def test_a_refusal_fails_its_own_call_only(connection: Connection) -> None:
    """An error reply is its caller's; the connection goes on."""
    bad, good = connection.call((b"INCRBY", b"n", b"x")), connection.call((b"INCR", b"n"))
    with pytest.raises(RefusedError, match="not an integer") as caught:
        await bad
    assert caught.value.code == "ERR"
    assert await good == 1


async def test_an_unknown_script(connection: Connection) -> None:
    """NOSCRIPT is told apart."""
    with pytest.raises(NoScriptError):
        await connection.call((b"EVALSHA", b"0" * 40, b"0"))


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("READONLY You can't write against a read only replica.", ReadOnlyError),
        ("LOADING server is loading", UnavailableError),
        ("CLUSTERDOWN The cluster is down", UnavailableError),
        ("TRYAGAIN Multiple keys request during rehashing of slot", UnavailableError),
        ("MASTERDOWN Link with MASTER is down", UnavailableError),
        ("MISCONF Errors writing to the AOF file", UnavailableError),
        ("BUSY running a script", UnavailableError),
        ("OOM command not allowed when used memory > 'maxmemory'.", OutOfMemoryError),
        ("NOAUTH Authentication required.", LoginError),
        ("NOPERM User x has no permissions", LoginError),
        ("WRONGTYPE Operation against a key", RefusedError),
        ("", RefusedError),
    ],
)
def test_refusals_by_their_first_word(line: str, kind: type[RefusedError]) -> None:
    """The first word decides."""
    error = refused(line)
    assert type(error) is kind
    assert error.code == line.partition(" ")[0]


@pytest.mark.parametrize(
    ("line", "kind", "found"),
    [
        ("MOVED 3999 127.0.0.1:6381", MovedError, (3999, "127.0.0.1", 6381)),
        ("ASK 0 ::1:6379", AskError, (0, "::1", 6379)),
        ("MOVED 5 :6380", MovedError, (5, "", 6380)),
        ("MOVED nonsense", MovedError, (-1, "", 0)),
        ("MOVED", MovedError, (-1, "", 0)),
    ],
)
def test_where_a_slot_is(line: str, kind: type[MovedError], found: tuple[int, str, int]) -> None:
    """Slot, host and port of an answer that points elsewhere; nonsense points nowhere."""
    error = refused(line)
    assert type(error) is kind
    assert isinstance(error, MovedError)
    assert (error.slot, error.host, error.port) == found


async def test_errors_do_not_repeat_what_was_sent(connection: Connection) -> None:
    """A server repeats the arguments of a command that it does not know: they are cut off."""
    value = secrets.token_hex(8)
    with pytest.raises(RefusedError, match="unknown command 'NOPE'") as caught:
        await connection.call((b"NOPE", value.encode()))
    assert value not in str(caught.value)


# ---- losses


async def test_a_lost_connection_fails_all_that_wait_at_once() -> None:
    """Kill -9 of the server: every waiting call fails as unknown, further ones as not sent, and the owner is told once."""
    told: list[str] = []
    with server() as own:
        connection = await connect(Endpoint(path=str(own.path)), Login())
        connection.on_lost = told.append
        os.kill(own.pid, signal.SIGSTOP)
        calls = [connection.call((b"INCR", b"n")) for _ in range(100)]
        calls[7].cancel()
        await asyncio.sleep(0.01)
        own.kill()
        results = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(result, ConnectionLostError) for result in results) == 99
    assert not connection.alive
    assert len(told) == 1
    with pytest.raises(StoreAwayError, match="lost"):
        connection.call((b"PING",))
    with pytest.raises(StoreAwayError):
        connection.probe()


async def test_closing_fails_what_waits_and_tells_nobody(one: Server) -> None:
    """`close` is its owner's own doing."""
    told: list[str] = []
    connection = await connect(Endpoint(path=str(one.path)), Login())
    connection.on_lost = told.append
    waiting = connection.call((b"BLPOP", b"never", b"5"))
    connection.close()
    with pytest.raises(ConnectionLostError, match="closed"):
        await waiting
    assert told == []


async def test_too_much_waits(one: Server) -> None:
    """Beyond the bound a call fails at once, unsent; a look is still possible; afterwards there is room again."""
    connection = await connect(Endpoint(path=str(one.path)), Login(), most=3)
    calls = [connection.call((b"INCR", b"bounded")) for _ in range(3)]
    with pytest.raises(StoreAwayError, match="3 calls wait"):
        connection.call((b"INCR", b"bounded"))
    assert await connection.probe() == b"PONG"
    assert [await call for call in calls] == [1, 2, 3]
    assert await connection.call((b"INCR", b"bounded")) == 4
    connection.close()


@pytest.mark.parametrize("nonsense", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x15\x03\x03\x00\x02\x02\x16"])
async def test_another_protocol(nonsense: bytes) -> None:
    """Somebody else listens there: told, and the connection is given up."""
    async with speaking(nonsense) as endpoint:
        with pytest.raises(StoreAwayError, match="does not speak the protocol"):
            await connect(endpoint, Login())


async def test_an_answer_too_many() -> None:
    """More answers than calls: the order is lost, and with it the connection."""
    async with speaking(b"+OK\r\n", b"+PONG\r\n+PONG\r\n") as endpoint:
        connection = await connect(endpoint, Login())
        assert not connection.alive


async def test_nobody_answers() -> None:
    """A server that accepts and says nothing: given up in time."""
    async with speaking() as endpoint:
        with pytest.raises(StoreAwayError, match=r"did not answer within 0\.05 s"):
            await connect(endpoint, Login(timeout=0.05))


async def test_nobody_listens() -> None:
    """No such port, no such socket: told at once, with the place."""
    with pytest.raises(StoreAwayError, match=r"127\.0\.0\.1:\d+ cannot be reached: "):
        await connect(Endpoint("127.0.0.1", free_port()), Login())
    with pytest.raises(StoreAwayError, match="unix:/nowhere/s cannot be reached: No such file"):
        await connect(Endpoint(path="/nowhere/s"), Login())


async def test_a_server_that_loads_is_not_there_yet() -> None:
    """LOADING: the connection is not given out."""
    async with speaking(b"-ERR no names here\r\n", b"-LOADING server is loading the dataset in memory\r\n") as endpoint:
        with pytest.raises(UnavailableError) as caught:
            await connect(endpoint, Login())
    assert caught.value.code == "LOADING"


# ---- logins


async def test_logins() -> None:
    """The right password serves; a wrong one and none are refused in plain words, which hold neither."""
    password, wrong = secrets.token_hex(16), secrets.token_hex(16)
    with server("--requirepass", password, password=password) as own:
        endpoint = Endpoint(path=str(own.path))
        connection = await connect(endpoint, Login(password=password.encode(), database=3))
        assert await connection.call((b"SET", b"k", b"v")) == b"OK"
        connection.close()
        with pytest.raises(LoginError, match="WRONGPASS") as caught:
            await connect(endpoint, Login(password=wrong.encode()))
        assert wrong not in str(caught.value)
        with pytest.raises(LoginError, match="NOAUTH"):
            await connect(endpoint, Login())
        own.client().execute_command("ACL", "SETUSER", "gateway", "on", f">{password}", "~xq:*", "+@all", "-client")
        connection = await connect(endpoint, Login("gateway", password.encode()))
        with pytest.raises(LoginError, match="NOPERM"):
            await connection.call((b"GET", b"k"))
        connection.close()
    with server() as own, pytest.raises(LoginError, match="without any password configured"):
        await connect(Endpoint(path=str(own.path)), Login(password=password.encode()))


async def test_a_database_that_is_not_there(one: Server) -> None:
    """SELECT is refused: the connection is not given out."""
    with pytest.raises(RefusedError, match="out of range"):
        await connect(Endpoint(path=str(one.path)), Login(database=99))


def test_no_secret_shows() -> None:
    """Neither login nor connection shows the password."""
    password = secrets.token_hex(16)
    assert password not in repr(Login("u", password.encode()))


def test_how_places_read() -> None:
    """As an operator would write them."""
    places = [Endpoint("h", 1), Endpoint("::1", 2), Endpoint(path="/s")]
    assert list(map(str, places)) == ["h:1", "[::1]:2", "unix:/s"]


# ---- TLS


@pytest.fixture
def authority(tmp_path: Path) -> pki.Authority:
    """A CA for loopback."""
    return pki.create_ca(tmp_path / "ca", "test", hosts=["127.0.0.1", "store.test"])


async def test_tls_with_a_ca_of_ones_own(one: Server, authority: pki.Authority) -> None:
    """The certificate is checked against the CA, and the calls go through."""
    trust = ssl.create_default_context(cadata=authority.pem.decode())
    leaf = authority.issue(["127.0.0.1"]).server_context(alpn=())
    async with relay(one.path, leaf) as (port, _):
        connection = await connect(Endpoint("127.0.0.1", port), Login(tls=trust))
        calls = [connection.call((b"ECHO", b"x" * size)) for size in (0, 1, 100_000)]
        assert list(map(len, await asyncio.gather(*calls))) == [0, 1, 100_000]
        connection.close()


async def test_tls_refuses_strangers(one: Server, authority: pki.Authority) -> None:
    """A certificate for another name, or from an unknown CA, or no TLS at all: not connected, and the reason is told."""
    trust = ssl.create_default_context(cadata=authority.pem.decode())
    async with relay(one.path, authority.issue(["store.test"]).server_context(alpn=())) as (port, _):
        with pytest.raises(StoreAwayError, match="cannot be reached: IP address mismatch"):
            await connect(Endpoint("127.0.0.1", port), Login(tls=trust))
    async with relay(one.path, authority.issue(["127.0.0.1"]).server_context(alpn=())) as (port, _):
        with pytest.raises(StoreAwayError, match="cannot be reached: unable to get local issuer certificate"):
            await connect(Endpoint("127.0.0.1", port), Login(tls=ssl.create_default_context()))
    async with relay(one.path) as (port, _):
        with pytest.raises(StoreAwayError):
            await connect(Endpoint("127.0.0.1", port), Login(tls=trust, timeout=0.5))
