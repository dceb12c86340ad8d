"""HTTP/2 (RFC 9113) by h2, with flow control both ways."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import Final

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

from extproc.sim.answer import SimAnswer
from extproc.sim.play import Engine, Gate, Host, Sink, play
from extproc.sim.seen import RawHeaders, SeenRequest

_STREAM_WINDOW: Final = 1 << 20
_CONNECTION_WINDOW: Final = 16 << 20
_DEFAULT_WINDOW: Final = 65_535
_SETTINGS: Final = {
    h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: _STREAM_WINDOW,
    h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: 1000,
    h2.settings.SettingCodes.MAX_HEADER_LIST_SIZE: 128 << 10,
    h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL: 0,
}


@dataclass(slots=True)
class _Stream:
    headers: RawHeaders
    parts: list[bytes] = field(default_factory=list)
    size: int = 0
    answered: bool = False
    task: asyncio.Task[None] | None = None


class Http2(Engine):
    """One connection with any number of streams."""

    def __init__(self, transport: asyncio.Transport, gate: Gate, host: Host, origin: tuple[int, str | None]) -> None:
        """`origin`: the connection's number and its SNI."""
        self.transport, self.gate, self._host = transport, gate, host
        self._connection, self._server_name = origin
        config = h2.config.H2Configuration(
            client_side=False, header_encoding=None, validate_outbound_headers=False, normalize_outbound_headers=False
        )
        self.h2 = h2.connection.H2Connection(config)
        self.h2.local_settings = h2.settings.Settings(client=False, initial_values=_SETTINGS)
        self.h2.initiate_connection()
        self.h2.increment_flow_control_window(_CONNECTION_WINDOW - _DEFAULT_WINDOW)
        self._streams: dict[int, _Stream] = {}
        self._blocked: list[asyncio.Future[None]] = []
        self.flush()

    def flush(self) -> None:
        """Write what h2 has ready."""
        data = self.h2.data_to_send()
        if data and not self.transport.is_closing():
            self.transport.write(data)

    def data_received(self, data: bytes) -> None:
        """Take bytes; answer the requests that are whole."""
        try:
            events = self.h2.receive_data(data)
        except h2.exceptions.ProtocolError:
            self.flush()  # h2 has put a GOAWAY there
            self.transport.close()
            return
        for event in events:
            self._on(event)
        self.flush()

    def connection_lost(self) -> None:
        """Count the responses cut short, and stop them."""
        for number in list(self._streams):
            self._cut(number)

    def shutdown(self) -> None:
        """Send GOAWAY and close."""
        with contextlib.suppress(h2.exceptions.ProtocolError):  # the client has closed it already
            self.h2.close_connection()
        self.flush()
        self.transport.close()

    async def window(self) -> None:
        """Return when the client has opened a window."""
        waiter = asyncio.get_running_loop().create_future()
        self._blocked.append(waiter)
        await waiter

    def _on(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.DataReceived):
            self._on_data(event)
        elif isinstance(event, h2.events.RequestReceived):
            headers = tuple((bytes(name), bytes(value)) for name, value in event.headers)
            self._streams[event.stream_id] = _Stream(headers)
        elif isinstance(event, h2.events.TrailersReceived):
            self._on_trailers(event)
        elif isinstance(event, h2.events.StreamEnded):
            self._respond(event.stream_id)
        elif isinstance(event, h2.events.WindowUpdated | h2.events.RemoteSettingsChanged):
            self._unblock()
        elif isinstance(event, h2.events.StreamReset):
            self._cut(event.stream_id)
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.connection_lost()  # h2 sends nothing more after a GOAWAY
            self.transport.close()

    def _on_trailers(self, event: h2.events.TrailersReceived) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is not None:  # kept behind the header fields: a test may ask what came at all
            stream.headers += tuple((bytes(name), bytes(value)) for name, value in event.headers)

    def _on_data(self, event: h2.events.DataReceived) -> None:
        # the body is kept in memory whatever the answer: the window opens again at once
        self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        stream = self._streams.get(event.stream_id)
        if stream is None or stream.answered:
            return
        stream.size += len(event.data)
        if stream.size > self._host.max_body:
            stream.answered = True
            stream.parts.clear()
            self._start(event.stream_id, stream, SimAnswer(413))
            return
        stream.parts.append(event.data)

    def _respond(self, number: int) -> None:
        stream = self._streams.get(number)
        if stream is None or stream.answered:
            return
        stream.answered = True
        pseudo = {name: value.decode("latin-1") for name, value in stream.headers[:6] if name[:1] == b":"}
        seen = SeenRequest(
            number=self._host.next_number(),
            protocol="HTTP/2",
            connection=self._connection,
            server_name=self._server_name,
            method=pseudo.get(b":method", ""),
            target=pseudo.get(b":path", ""),
            headers=stream.headers,
            body=b"".join(stream.parts),
        )
        stream.parts.clear()
        self._start(number, stream, self._host.handle(seen))

    def _start(self, number: int, stream: _Stream, answer: SimAnswer) -> None:
        sink = _StreamSink(self, number)
        try:
            at_once = self._at_once(number, answer, sink)
        except h2.exceptions.ProtocolError:  # the bytes that brought the request also brought its reset, or a GOAWAY
            self._host.hung_up()
            at_once = True
        if at_once:
            self._streams.pop(number, None)
            return
        stream.task = self._host.spawn(self._play(number, answer, sink))

    def _at_once(self, number: int, answer: SimAnswer, sink: _StreamSink) -> bool:
        """Send all of it now, if that can be done."""
        room = min(self.h2.local_flow_control_window(number), self.h2.max_outbound_frame_size)
        if not answer.immediate or len(answer.body) > room or not self.gate.is_open:
            return False
        sink.send_head(answer, end=not answer.body)
        if answer.body:
            self.h2.send_data(number, answer.body, end_stream=True)
        return True

    async def _play(self, number: int, answer: SimAnswer, sink: Sink) -> None:
        await play(answer, sink)
        self._streams.pop(number, None)

    def _unblock(self) -> None:
        blocked, self._blocked = self._blocked, []
        for waiter in blocked:
            if not waiter.done():
                waiter.set_result(None)

    def _cut(self, number: int) -> None:
        stream = self._streams.pop(number, None)
        if stream is not None and stream.task is not None:
            self._host.hung_up()
            stream.task.cancel()


class _StreamSink(Sink):
    """One stream's response."""

    def __init__(self, connection: Http2, number: int) -> None:
        self._connection, self._number = connection, number

    def send_head(self, answer: SimAnswer, *, end: bool) -> None:
        """Give h2 the HEADERS frame."""
        fields = [(":status", str(answer.status)), *((name.lower(), value) for name, value in answer.headers)]
        if answer.has_length:
            fields.append(("content-length", str(sum(map(len, answer.chunks)))))
        self._connection.h2.send_headers(self._number, fields, end_stream=end)

    def head(self, answer: SimAnswer) -> None:
        """Send HEADERS."""
        self.send_head(answer, end=False)
        self._connection.flush()

    async def body(self, chunk: bytes) -> None:
        """Send DATA frames as far as the client's windows allow, and wait for more."""
        connection, view = self._connection, memoryview(chunk)
        while view:
            await connection.gate.wait()
            room = min(connection.h2.local_flow_control_window(self._number), connection.h2.max_outbound_frame_size)
            if room <= 0:
                await connection.window()
                continue
            connection.h2.send_data(self._number, bytes(view[:room]))
            connection.flush()
            view = view[room:]

    def end(self) -> None:
        """Send END_STREAM."""
        self._connection.h2.end_stream(self._number)
        self._connection.flush()

    async def reset(self) -> None:
        """Send RST_STREAM: the connection and its other streams go on."""
        self._connection.h2.reset_stream(self._number, h2.errors.ErrorCodes.INTERNAL_ERROR)
        self._connection.flush()
