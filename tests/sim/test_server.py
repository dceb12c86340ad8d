"""The simulator over TLS, called by plain clients."""

from __future__ import annotations

import asyncio
import base64
import ssl
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest

from extproc.adapters.pki import Leaf
from extproc.errors import ConfigError
from extproc.sim import Settings, SimAnswer, Simulator
from sim.clients import http

ASK: Any = [{"role": "user", "content": "How deep is the sea?"}]
CHAT = {"model": "gpt-4o", "messages": ASK}


@pytest.mark.parametrize("http2", [False, True])
class TestFaults:
    """Faults as they look on the wire."""

    async def post(self, client: httpx2.AsyncClient, stream: bool = False, **faults: str) -> httpx2.Response:
        """One chat call with `x-sim-` fields."""
        headers = {"x-sim-" + name.replace("_", "-"): value for name, value in faults.items()}
        return await client.post("/v1/chat/completions", json={**CHAT, "stream": stream}, headers=headers)

    async def test_split_and_gzip_change_no_content(self, sim: Simulator, trust: ssl.SSLContext, http2: bool) -> None:
        """Cut to single bytes, at random, packed: the client reads the same."""
        async with http(sim, trust, http2=http2) as client:
            for stream in (False, True):
                plain = await self.post(client, stream)
                for faults in ({"split": "1"}, {"split": "seed:3"}, {"gzip": "1"}, {"gzip": "1", "split": "5"}):
                    cut = await self.post(client, stream, **faults)
                    assert cut.content == plain.content
                    assert ("gzip" in faults) == (cut.headers.get("content-encoding") == "gzip")

    async def test_status(self, sim: Simulator, trust: ssl.SSLContext, http2: bool) -> None:
        """A status comes with the vendor's error and the wait it names."""
        async with http(sim, trust, http2=http2) as client:
            answer = await self.post(client, status="429", retry_after="7")

        assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")
        assert answer.json()["error"]["code"] == "rate_limit_exceeded"

    async def test_length(self, sim: Simulator, trust: ssl.SSLContext, http2: bool) -> None:
        """A stream may be made to state its length, and a JSON body not to."""
        async with http(sim, trust, http2=http2) as client:
            usual = await self.post(client, True)
            told = await self.post(client, True, content_length="1")
            untold = await self.post(client, False, content_length="0")

        assert "content-length" not in usual.headers
        assert int(told.headers["content-length"]) == len(told.content)
        assert "content-length" not in untold.headers

    @pytest.mark.parametrize("place", [0, 1, 300])
    async def test_reset_in_the_body(self, sim: Simulator, trust: ssl.SSLContext, http2: bool, place: int) -> None:
        """Exactly so many bytes arrive, then an error and not an end."""
        got = b""
        async with http(sim, trust, http2=http2) as client:
            whole = (await self.post(client, True)).content
            with pytest.raises((httpx2.ReadError, httpx2.RemoteProtocolError)):  # noqa: PT012 - reading is what raises
                async with client.stream(
                    "POST",
                    "/v1/chat/completions",
                    json={**CHAT, "stream": True},
                    headers={"x-sim-reset-after": str(place)},
                ) as answer:
                    async for piece in answer.aiter_raw():
                        got += piece

        assert got == whole[:place]

    async def test_reset_before_the_head(self, sim: Simulator, trust: ssl.SSLContext, http2: bool) -> None:
        """-1 resets instead of answering."""
        async with http(sim, trust, http2=http2) as client:
            with pytest.raises((httpx2.ReadError, httpx2.RemoteProtocolError)):
                await self.post(client, reset_after="-1")
            assert (await self.post(client)).status_code == 200

    async def test_stall_and_hang_up(self, sim: Simulator, trust: ssl.SSLContext, http2: bool) -> None:
        """A stalled stream sends nothing more; that the client then goes is noticed."""
        async with http(sim, trust, http2=http2) as client:
            with pytest.raises(httpx2.ReadTimeout):
                await client.post(
                    "/v1/chat/completions",
                    json={**CHAT, "stream": True},
                    headers={"x-sim-stall-after": "20"},
                    timeout=httpx2.Timeout(5, read=0.2),
                )
        for _ in range(100):
            if sim.requests.hangups:
                break
            await asyncio.sleep(0.02)

        assert sim.requests.hangups == 1

    async def test_delays(self, sim: Simulator, trust: ssl.SSLContext, http2: bool) -> None:
        """Waiting before the head, before the first byte and between chunks adds up."""
        loop = asyncio.get_running_loop()
        async with http(sim, trust, http2=http2) as client:
            await self.post(client)
            start = loop.time()
            await self.post(client, delay_ms="60", first_byte_ms="60", chunk_ms="30", split="200")
            took = loop.time() - start

        assert took >= 0.15

    async def test_bad_fault(self, sim: Simulator, trust: ssl.SSLContext, http2: bool) -> None:
        """An unknown fault is a 400 that names it."""
        async with http(sim, trust, http2=http2) as client:
            answer = await self.post(client, dealy_ms="1")

        assert answer.status_code == 400
        assert "x-sim-dealy-ms" in answer.text


@pytest.mark.parametrize("http2", [False, True])
class TestWire:
    """Bodies and headers as they are."""

    async def test_large_bodies_both_ways(self, sim: Simulator, trust: ssl.SSLContext, http2: bool) -> None:
        """32 MiB up and 16 MiB down arrive whole."""
        down = bytes(range(256)) * 65536
        sim.script(SimAnswer(200, (("content-type", "x/y"),), (down,)))
        body = orjson.dumps({**CHAT, "messages": [{"role": "user", "content": "x" * (32 << 20)}]})
        async with http(sim, trust, http2=http2) as client:
            answer = await client.post("/v1/chat/completions", content=body)

        assert answer.content == down
        assert sim.requests[-1].body == body

    async def test_over_the_limit(self, leaf: Leaf, trust: ssl.SSLContext, http2: bool) -> None:
        """A body over the simulator's own limit is a 413."""
        async with (
            Simulator("openai", leaf, settings=Settings(max_body=1000)) as sim,
            http(sim, trust, http2=http2) as client,
        ):
            answer = await client.post("/v1/chat/completions", content=b"x" * 1001)

        assert answer.status_code == 413

    async def test_what_was_seen(self, sim: Simulator, trust: ssl.SSLContext, http2: bool) -> None:
        """Fields keep their order and repeats; SNI and connection are known; the oldest requests go."""
        sent = [("x-b", "1"), ("x-a", "2"), ("x-b", "3")]
        async with http(sim, trust, http2=http2) as client:
            await client.get("/v1/models?limit=2", headers=sent)
            await client.get("/v1/models")
        first, second = sim.requests

        assert [(n, v) for n, v in first.headers if n.lower().startswith(b"x-")] == [
            (n.encode(), v.encode()) for n, v in sent
        ]
        assert (first.method, first.target, first.path) == ("GET", "/v1/models?limit=2", "/v1/models")
        assert first.server_name == "localhost"
        assert first.connection == second.connection

    async def test_script_and_cases(self, sim: Simulator, trust: ssl.SSLContext, http2: bool) -> None:
        """Scripted answers come in turn, by path where one is given, byte for byte; a case by its name."""
        sim.script(SimAnswer(503), SimAnswer(200, (("x-one", "a"), ("x-one", "b")), (b"da", b"ta")))
        sim.script(SimAnswer(201), path="/elsewhere")
        sim.cases.add("mine", SimAnswer(418, (), (b"teapot",)))
        async with http(sim, trust, http2=http2) as client:
            answers = [await client.get("/v1/models") for _ in range(3)]
            elsewhere = await client.get("/elsewhere")
            case = await client.get("/v1/models", headers={"x-sim-case": "mine"})
            missing = await client.get("/v1/models", headers={"x-sim-case": "other"})

        assert [answer.status_code for answer in answers] == [503, 200, 200]
        assert answers[1].content == b"data"
        assert answers[1].headers.get_list("x-one") == ["a", "b"]
        assert (elsewhere.status_code, case.status_code, case.content) == (201, 418, b"teapot")
        assert missing.status_code == 400
        assert sim.scripted == 0

    async def test_many_streams_at_once(self, sim: Simulator, trust: ssl.SSLContext, http2: bool) -> None:
        """A hundred streams at a time, all whole."""
        async with http(sim, trust, http2=http2) as client:
            body = {**CHAT, "stream": True}
            headers = {"x-sim-chunk-ms": "1"}
            calls = [client.post("/v1/chat/completions", json=body, headers=headers) for _ in range(100)]
            answers = await asyncio.gather(*calls)

        assert len({answer.content for answer in answers}) == 1
        assert answers[0].content.endswith(b"data: [DONE]\n\n")

    async def test_slow_reader_slows_the_writer(self, sim: Simulator, trust: ssl.SSLContext, http2: bool) -> None:
        """A client that reads slowly gets it all in the end, and does not stop its neighbours."""
        size, chunk = 400, b"z" * 65536
        sim.script(SimAnswer(200, (), (chunk,) * size, content_length=False))
        got = 0
        async with http(sim, trust, http2=http2) as client, client.stream("GET", "/big") as answer:
            other = await client.get("/v1/models")
            async for piece in answer.aiter_raw():
                got += len(piece)
                await asyncio.sleep(0)

        assert other.status_code == 200
        assert got == size * len(chunk)


class TestControl:
    """The control port, for tests in another process."""

    async def test_requests_script_cases(self, sim: Simulator, trust: ssl.SSLContext) -> None:
        """What was seen can be read and forgotten; answers and cases can be given."""
        base = f"http://127.0.0.1:{sim.control_port}"
        answer = {"status": 202, "headers": [["x-y", "z"]], "chunks": [base64.b64encode(b"\x00\xff").decode()]}
        async with http(sim, trust) as client, httpx2.AsyncClient(base_url=base, trust_env=False) as control:
            queued = await control.post("/script", json={"answers": [answer]})
            await control.post("/cases", json={"name": "c", "answer": {"text": "hello"}})
            scripted = await client.post("/v1/x", content=b"\x01")
            case = await client.get("/v1/x", headers={"x-sim-case": "c"})
            seen = (await control.get("/requests")).json()
            later = (await control.get(f"/requests?since={seen['requests'][0]['number']}")).json()
            await control.delete("/requests")
            empty = (await control.get("/requests")).json()

        assert queued.json() == {"queued": 1}
        assert (scripted.status_code, scripted.content, scripted.headers["x-y"]) == (202, b"\x00\xff", "z")
        assert case.text == "hello"
        assert [request["target"] for request in seen["requests"]] == ["/v1/x", "/v1/x"]
        assert base64.b64decode(seen["requests"][0]["body"]) == b"\x01"
        assert len(later["requests"]) == 1
        assert empty["requests"] == []

    async def test_find(self, sim: Simulator, trust: ssl.SSLContext) -> None:
        """The simulator searches what it was sent: targets, header fields and bodies, below their encodings."""
        base = f"http://127.0.0.1:{sim.control_port}"
        values = ["Zoë", "in a field", "nowhere", "in the target"]
        async with http(sim, trust) as client, httpx2.AsyncClient(base_url=base, trust_env=False) as control:
            await client.post("/v1/a", content=b'{"a":"Zo\\u00eb"}')
            await client.post("/v1/b", content=b"{}", headers={"x-a": "is in a field"})
            await client.post("/v1/c", content=b"{}")
            await client.get("/v1/d?q=in%20the%20target")
            found = (await control.post("/find", json={"values": values})).json()

        numbers = [request.number for request in sim.requests]
        wanted = [(numbers[0], [0]), (numbers[1], [1]), (numbers[3], [3])]
        assert [(one["number"], one["values"]) for one in found["found"]] == wanted
        assert found["searched"] == 4

    @pytest.mark.parametrize(
        ("path", "body"),
        [
            ("/script", b"{"),
            ("/script", b"[]"),
            ("/script", b'{"answers":[{"statsu":1}]}'),
            ("/script", b'{"answers":[{"chunks":["%"]}]}'),
            ("/script", b'{"answers":[{"delay_ms":"1"}]}'),
            ("/cases", b'{"answer":{}}'),
            ("/find", b'{"values":"x"}'),
            ("/find", b'{"values":[""]}'),
        ],
    )
    async def test_bad_orders(self, sim: Simulator, path: str, body: bytes) -> None:
        """An order that cannot be read is a 400 with a reason."""
        base = f"http://127.0.0.1:{sim.control_port}"
        async with httpx2.AsyncClient(base_url=base, trust_env=False) as control:
            answer = await control.post(path, content=body)
            nowhere = await control.get("/nowhere")

        assert answer.status_code == 400
        assert answer.json()["error"]
        assert nowhere.status_code == 404


class TestLife:
    """Beginning and end."""

    async def test_public_address_is_refused(self) -> None:
        """It serves loopback only."""
        with pytest.raises(ConfigError, match="loopback"):
            Simulator(settings=Settings(address="0.0.0.0"))

    async def test_close_waits_for_open_answers(self, leaf: Leaf, trust: ssl.SSLContext) -> None:
        """An answer under way is finished within the grace, a stalled one is cut."""
        sim = Simulator("openai", leaf, settings=Settings(grace=1.0))
        await sim.start()
        async with http(sim, trust) as client:
            slow = asyncio.ensure_future(client.get("/v1/models", headers={"x-sim-delay-ms": "200"}))
            stuck = asyncio.ensure_future(client.get("/v1/models", headers={"x-sim-stall-after": "5"}))
            while sim.requests.total < 2:
                await asyncio.sleep(0.01)
            await sim.close()
            assert (await slow).status_code == 200
            with pytest.raises(httpx2.RemoteProtocolError):
                await stuck

    async def test_plain_by_prior_knowledge(self) -> None:
        """Without a certificate the first bytes tell the protocol."""
        async with Simulator("openai") as sim:
            base = f"http://127.0.0.1:{sim.port}"
            async with httpx2.AsyncClient(http1=False, http2=True, base_url=base, trust_env=False) as two:
                assert (await two.get("/v1/models")).http_version == "HTTP/2"
            async with httpx2.AsyncClient(base_url=base, trust_env=False) as one:
                assert (await one.get("/v1/models")).http_version == "HTTP/1.1"

    async def test_rubbish(self, sim: Simulator) -> None:
        """What is no HTTP is answered 400 and closed."""
        async with Simulator("openai") as plain:
            reader, writer = await asyncio.open_connection("127.0.0.1", plain.port)
            writer.write(b"\x00\x01rubbish\r\n\r\n")
            said = await reader.read()
            writer.close()
            await writer.wait_closed()

        assert said.startswith(b"HTTP/1.1 400")

    async def test_folder_of_cases(self, leaf: Leaf, trust: ssl.SSLContext, tmp_path: Path) -> None:
        """A recorded case is sent as it is, in the writes that its meta states; no path leads out of the folder."""
        place = tmp_path / "cases" / "openai-chat" / "one"
        place.mkdir(parents=True)
        (place / "response.sse").write_bytes(b"data: {}\n\n")
        meta = {"status": 200, "content_type": "text/event-stream", "stream": True, "chunks": [4, 6]}
        (place / "meta.json").write_bytes(orjson.dumps({**meta, "files": {"response": "response.sse"}}))
        settings = Settings(cases=tmp_path / "cases")
        async with Simulator("openai", leaf, settings=settings) as sim, http(sim, trust) as client:
            found = await client.get("/", headers={"x-sim-case": "openai-chat/one"})
            outside = await client.get("/", headers={"x-sim-case": "../cases/../../etc"})

        assert found.content == b"data: {}\n\n"
        assert found.headers["content-type"] == "text/event-stream"
        assert outside.status_code == 400
