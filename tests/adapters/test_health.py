from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio

from extproc.adapters._pb import health_pb2
from extproc.adapters.health import KNOWN, SERVICE, Health
from extproc.adapters.sockets import public_path, publish

Status = health_pb2.HealthCheckResponse


class Served:
    def __init__(self, health: Health, server: grpc.aio.Server, channel: grpc.aio.Channel) -> None:
        self.health, self.server, self.channel = health, server, channel

    def call(self, method: str, service: str) -> Any:
        kind = self.channel.unary_unary if method == "Check" else self.channel.unary_stream
        stub = kind(
            f"/{SERVICE}/{method}",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=Status.FromString,
        )
        return stub(health_pb2.HealthCheckRequest(service=service), timeout=10)


@pytest_asyncio.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    health = Health()
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((health.handler(),))
    server.add_insecure_port(f"unix:{tmp_path}/h.sock")
    await server.start()
    async with grpc.aio.insecure_channel(f"unix:{tmp_path}/h.sock") as channel:
        yield Served(health, server, channel)
    await server.stop(0)


@pytest.mark.parametrize("service", sorted(KNOWN))
async def test_check_follows_the_worker(served: Served, service: str) -> None:
    """Not serving while starting, serving when told so, not serving on drain; for the server and for ext_proc alike."""
    starting = await served.call("Check", service)
    served.health.set(serving=True)
    serving = await served.call("Check", service)
    served.health.set(serving=False, detail="draining")
    draining = await served.call("Check", service)

    assert [starting.status, serving.status, draining.status] == [
        Status.NOT_SERVING,
        Status.SERVING,
        Status.NOT_SERVING,
    ]
    assert (served.health.serving, served.health.detail) == (False, "draining")


async def test_an_unknown_service_is_not_found(served: Served) -> None:
    """As the protocol wants it: an error for Check, a status for Watch."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.call("Check", "no.such.Service")
    watch = served.call("Watch", "no.such.Service")
    first = await watch.read()
    watch.cancel()

    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert first.status == Status.SERVICE_UNKNOWN


async def test_watch_tells_each_change_once(served: Served) -> None:
    """The state now, then every change; the same state again is not repeated; `close` ends the stream."""
    watch = served.call("Watch", "")
    seen = [(await watch.read()).status]
    served.health.set(serving=True)
    seen.append((await watch.read()).status)
    served.health.set(serving=True, detail="again")
    served.health.set(serving=False)
    seen.append((await watch.read()).status)
    served.health.close()

    assert await watch.read() is grpc.aio.EOF
    assert seen == [Status.NOT_SERVING, Status.SERVING, Status.NOT_SERVING]


async def test_a_closed_health_does_not_hold_up_the_server(served: Served) -> None:
    """A watcher that stays must not keep a draining server to the end of its grace time."""
    watch = served.call("Watch", "")
    await watch.read()
    served.health.set(serving=False)
    served.health.close()

    await asyncio.wait_for(served.server.stop(30), 5)

    assert not served.health.serving


async def test_a_grpc_server_is_met_under_a_published_name(served: Served, tmp_path: Path) -> None:
    """gRPC's own socket can be hard-linked: callers of the public name reach the server behind it."""
    served.health.set(serving=True)
    publish(tmp_path / "h.sock", public_path(tmp_path, 0))

    async with grpc.aio.insecure_channel(f"unix:{public_path(tmp_path, 0)}") as channel:
        answer = await Served(served.health, served.server, channel).call("Check", "")

    assert answer.status == Status.SERVING
