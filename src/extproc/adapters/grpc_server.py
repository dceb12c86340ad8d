"""The reference transport: `grpc.aio`, one Unix socket a worker. Knows messages and streams, nothing of policy.

One of the two places with a broad `except`: a policy's crash must become a refusal, not a hang.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, TypeAlias

import grpc
import structlog

from extproc.adapters.codec import Codec
from extproc.adapters.host import Conversation, Host
from extproc.errors import ProtocolError
from extproc.exchange.actions import Action, Reset
from extproc.exchange.events import Event
from extproc.exchange.setup import Modes

SERVICE: Final = "envoy.service.ext_proc.v3.ExternalProcessor"
# a message is a body plus its frame and the attributes
MESSAGE_SLACK: Final = 1 << 20

Stream: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"


class Processor:
    """The `Process` method: one HTTP exchange a stream."""

    def __init__(self, host: Host) -> None:
        """`host` performs the exchanges."""
        self._host = host
        self._log = structlog.get_logger("extproc.stream")

    async def process(self, _requests: AsyncIterator[bytes], context: Stream) -> None:
        """Serve one stream to its end; whatever ends it, the exchange is finished and on record."""
        codec = Codec()
        conversation: Conversation | None = None
        try:
            while True:
                message = await context.read()
                if message is grpc.aio.EOF:
                    return
                now = time.monotonic()
                event = codec.decode(message, now)
                if conversation is None:
                    conversation = self._host.begin(Modes(codec.request_mode, codec.response_mode), now)
                for action in await self._run(conversation, event):
                    if isinstance(action, Reset):
                        await context.abort(grpc.StatusCode.CANCELLED, action.details)
                    await context.write(codec.encode(action))
                if conversation.complete:
                    return
        except ProtocolError as error:
            self._log.error("protocol error", reason=str(error))
            await context.abort(grpc.StatusCode.INTERNAL, "protocol error")
        finally:
            if conversation is not None:
                self._end(conversation)

    async def _run(self, conversation: Conversation, event: Event) -> tuple[Action, ...]:
        try:
            return await conversation.run(event)
        except ProtocolError:
            raise
        except Exception:
            self._log.exception("policy crashed")
            return conversation.fail()

    def _end(self, conversation: Conversation) -> None:
        """No `await` here: grpc.aio cancels a handler again inside its `finally`, and the record must not be lost."""
        try:
            conversation.end()
        except Exception:
            self._log.exception("policy crashed at the end")
            conversation.give_up()


def make_server(
    processor: Processor, handlers: tuple[grpc.GenericRpcHandler, ...], max_message: int
) -> grpc.aio.Server:
    """A server without a port yet. `max_message`: bytes of the largest body; bigger messages are refused by gRPC."""
    limit = max_message + MESSAGE_SLACK
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", limit),
            ("grpc.max_send_message_length", limit),
            ("grpc.so_reuseport", 0),
            ("grpc.http2.max_ping_strikes", 0),
        ]
    )
    behaviour: Callable[[AsyncIterator[bytes], Stream], Awaitable[None]] = processor.process
    method = grpc.stream_stream_rpc_method_handler(behaviour)  # raw bytes: the codec parses
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Process": method}), *handlers))
    return server
