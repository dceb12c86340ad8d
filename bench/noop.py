"""The yardstick: a grpc.aio processor that does nothing, in the processing mode that ours chooses. `noop.py SOCKET MAX`.

One task a stream, `read`/`write`, uvloop, upb messages, the options and the health service of our own server. It sends
as many messages as ours: one to each of Envoy's. Of the response headers it reads what the choice of the mode needs.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc
import uvloop

from extproc.adapters._pb import extproc_pb2 as pb
from extproc.adapters.grpc_server import MESSAGE_SLACK, SERVICE
from extproc.adapters.health import Health

BUFFER = 1 << 20  # the largest answer that is asked for in one piece
MODE = pb.ProcessingMode


def _override(body: Any) -> Any:
    return MODE(
        request_header_mode=MODE.SEND,
        response_header_mode=MODE.SEND,
        request_body_mode=MODE.BUFFERED,
        response_body_mode=body,
        request_trailer_mode=MODE.SEND,
        response_trailer_mode=MODE.SEND,
    )


BUFFERED = _override(MODE.BUFFERED)
STREAMED = _override(MODE.STREAMED)


def answer(message: Any) -> Any:
    """The reply that changes nothing."""
    phase = message.WhichOneof("request")
    if phase == "request_headers":
        return pb.ProcessingResponse(request_headers=pb.HeadersResponse())
    if phase == "request_body":
        return pb.ProcessingResponse(request_body=pb.BodyResponse())
    if phase == "response_body":
        return pb.ProcessingResponse(response_body=pb.BodyResponse())
    if phase == "response_headers":
        found = {field.key: field.raw_value for field in message.response_headers.headers.headers}
        whole = (
            found.get("content-type") == b"application/json" and int(found.get("content-length", BUFFER + 1)) <= BUFFER
        )
        return pb.ProcessingResponse(
            response_headers=pb.HeadersResponse(), mode_override=BUFFERED if whole else STREAMED
        )
    if phase == "request_trailers":
        return pb.ProcessingResponse(request_trailers=pb.TrailersResponse())
    return pb.ProcessingResponse(response_trailers=pb.TrailersResponse())


async def process(_requests: AsyncIterator[Any], context: Any) -> None:
    while True:
        message = await context.read()
        if message is grpc.aio.EOF:
            return
        await context.write(answer(message))


async def main(socket: str, largest: int) -> None:
    limit = largest + MESSAGE_SLACK
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", limit),
            ("grpc.max_send_message_length", limit),
            ("grpc.so_reuseport", 0),
            ("grpc.http2.max_ping_strikes", 0),
        ]
    )
    method = grpc.stream_stream_rpc_method_handler(
        process, pb.ProcessingRequest.FromString, pb.ProcessingResponse.SerializeToString
    )
    health = Health()
    service = grpc.method_handlers_generic_handler(SERVICE, {"Process": method})
    server.add_generic_rpc_handlers((service, health.handler()))
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    health.set(serving=True)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    health.close()
    await server.stop(0)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2])))
