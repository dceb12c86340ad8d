"""HTTP/1.1 (RFC 9112) by h11."""

from __future__ import annotations

import asyncio
from typing import Final

import h11

from extproc.sim.answer import SimAnswer
from extproc.sim.play import Engine, Gate, Host, Sink, play, reset_connection
from extproc.sim.seen import SeenRequest

_MAX_HEAD: Final = 128 << 10
_BODYLESS: Final = frozenset({204, 304})


class Http1(Engine, Sink):
    """One connection: requests one after the other."""

    def __init__(self, transport: asyncio.Transport, gate: Gate, host: Host, origin: tuple[int, str | None]) -> None:
        """`origin`: the connection's number and its SNI."""
        self._transport, self._gate, self._host = transport, gate, host
        self._connection, self._server_name = origin
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_HEAD)
        self._request: h11.Request | None = None
        self._parts: list[bytes] = []
        self._size = 0
        self._task: asyncio.Task[None] | None = None
        self._bodyless = False

    def data_received(self, data: bytes) -> None:
        """Take bytes; answer the requests that are whole."""
        self._h11.receive_data(data)
        self._advance()

    def connection_lost(self) -> None:
        """Count a response cut short, and stop it."""
        if self._task is not None:
            self._host.hung_up()
            self._task.cancel()

    def shutdown(self) -> None:
        """Close after what is written."""
        self._transport.close()

    def _advance(self) -> None:
        while self._task is None and not self._transport.is_closing():
            try:
                event = self._h11.next_event()
            except h11.RemoteProtocolError as error:
                self._refuse(error.error_status_hint)
                return
            if event is h11.NEED_DATA:
                if self._h11.they_are_waiting_for_100_continue:
                    self._transport.write(self._h11.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
                return
            if isinstance(event, h11.Request):
                self._request, self._parts, self._size = event, [], 0
            elif isinstance(event, h11.Data):
                self._size += len(event.data)
                if self._size > self._host.max_body:
                    self._refuse(413)
                    return
                self._parts.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                self._respond()
            else:  # PAUSED or ConnectionClosed: nothing more will come
                self._transport.close()
                return

    def _respond(self) -> None:
        request = self._request
        if request is None:
            raise RuntimeError("h11 ended a message that it did not begin")
        seen = SeenRequest(
            number=self._host.next_number(),
            protocol=f"HTTP/{request.http_version.decode()}",
            connection=self._connection,
            server_name=self._server_name,
            method=request.method.decode(),
            target=request.target.decode("latin-1"),
            headers=tuple((bytes(name), bytes(value)) for name, value in request.headers.raw_items()),
            body=b"".join(self._parts),
        )
        self._parts = []
        answer = self._host.handle(seen)
        self._bodyless = seen.method == "HEAD" or answer.status in _BODYLESS
        if answer.immediate and self._gate.is_open:
            self._transport.write(self._head(answer) + self._data(answer.body) + self._eom())
            self._next_cycle()
        else:
            self._task = self._host.spawn(self._play(answer))

    async def _play(self, answer: SimAnswer) -> None:
        await play(answer, self)
        self._task = None
        if not self._transport.is_closing():
            self._next_cycle()
            self._advance()

    def _next_cycle(self) -> None:
        if self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE:
            self._h11.start_next_cycle()
        else:
            self._transport.close()

    def _refuse(self, status: int) -> None:
        """Answer what cannot be read, and close: where the next request would begin is not known."""
        if self._h11.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            head = h11.Response(status_code=status, headers=[("content-length", "0"), ("connection", "close")])
            self._transport.write((self._h11.send(head) or b"") + self._eom())
        self._transport.close()

    def _head(self, answer: SimAnswer) -> bytes:
        fields = list(answer.headers)
        if answer.has_length and not self._bodyless:
            fields.append(("content-length", str(sum(map(len, answer.chunks)))))
        return self._h11.send(h11.Response(status_code=answer.status, headers=fields)) or b""

    def _data(self, chunk: bytes) -> bytes:
        return self._h11.send(h11.Data(data=chunk)) or b"" if chunk and not self._bodyless else b""

    def _eom(self) -> bytes:
        return self._h11.send(h11.EndOfMessage()) or b""

    def head(self, answer: SimAnswer) -> None:
        """Send status line and fields."""
        self._transport.write(self._head(answer))

    async def body(self, chunk: bytes) -> None:
        """Send one chunk."""
        await self._gate.wait()
        self._transport.write(self._data(chunk))

    def end(self) -> None:
        """Send the last chunk."""
        self._transport.write(self._eom())

    async def reset(self) -> None:
        """Reset the TCP connection."""
        await reset_connection(self._transport)
