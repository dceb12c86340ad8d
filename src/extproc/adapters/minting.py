"""Makes a leaf when Envoy asks for one: a secret discovery service (SDS, incremental gRPC) on a Unix socket.

Envoy's on-demand certificate selector asks by the name of the TLS handshake that waits for it. A name of the allow-list
gets a leaf; any other is "removed", and the handshake ends with an alert at once. Leaves and their keys are in this
process's memory and in Envoy's, in no file. One stream carries one name for as long as Envoy runs: a leaf past two thirds
of its life, and every leaf after a rotation, is replaced on the stream that it was asked on.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

import grpc
import structlog
from cryptography import x509
from google.protobuf.any_pb2 import Any

from extproc.adapters._pb import secrets_pb2 as pb
from extproc.adapters.leaves import DAY
from extproc.adapters.pki import CA_CERTIFICATE, CA_KEY, Authority, Leaf, group_shares, make_folder, write_atomic
from extproc.adapters.pki_chain import INTERMEDIATE, due, load_issuer
from extproc.errors import ConfigError

SERVICE: Final = "envoy.service.secret.v3.SecretDiscoveryService"
SOCKET: Final = "mint.sock"  # in the folder of the workers' sockets
TYPE_URL: Final = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
_ROTATED: Final = "rotated"  # in the CA's folder: its change asks for new leaves
_LOOK: Final = 1.0  # seconds between two looks at the CA's files and at what is due
_STREAMS: Final = 8192  # open streams, one a name
_BURST: Final = 256.0  # leaves at once,
_RATE: Final = 64.0  # and a second thereafter: a signature takes about 0.2 ms of this process's time
_TOLD: Final = 256  # refused names remembered, so that each is logged once a minute
_TELL_AGAIN: Final = 60.0

_Stream: TypeAlias = "grpc.aio.ServicerContext[pb.DeltaDiscoveryRequest, pb.DeltaDiscoveryResponse]"


def mark_rotation(folder: Path) -> None:
    """Ask the minter of a running gateway, if there is one, for new leaves. `folder`: the CA's."""
    if folder.is_dir():
        write_atomic(folder / _ROTATED, f"{dt.datetime.now(dt.UTC).isoformat()}\n".encode(), mode=0o644)


@dataclass(frozen=True, slots=True)
class _Minted:
    resource: pb.Resource = field(repr=False)
    certificate: x509.Certificate


class _Pace:
    """A token bucket: `take` waits until one more leaf may be made."""

    def __init__(self) -> None:
        self._have, self._at = _BURST, time.monotonic()

    async def take(self) -> None:
        now = time.monotonic()
        self._have, self._at = min(_BURST, self._have + (now - self._at) * _RATE), now
        self._have -= 1
        if self._have < 0:
            await asyncio.sleep(-self._have / _RATE)


class Minter:
    """The service. Belongs to one event loop. `allowed`: the names, in lower case; `life`: seconds that a leaf lives."""

    def __init__(self, ca: Path, allowed: Iterable[str], life: float) -> None:
        """Raises ConfigError where the CA in the folder `ca` cannot be used, or may not sign for an allowed name."""
        self._ca = ca
        self._allowed = frozenset(allowed)
        self._days = life / DAY
        self._mark = self._files()
        self._issuer = self._load()
        self._made: dict[str, _Minted] = {}  # the allow-list bounds it
        self._pace = _Pace()
        self._open = 0
        self._changed = asyncio.Event()
        self._told: OrderedDict[str, float] = OrderedDict()
        self._log = structlog.get_logger("extproc.minting")

    def handler(self) -> grpc.GenericRpcHandler:
        """Give the service, for `grpc.aio.Server.add_generic_rpc_handlers`."""
        method = grpc.stream_stream_rpc_method_handler(
            self._deltas,
            request_deserializer=pb.DeltaDiscoveryRequest.FromString,
            response_serializer=pb.DeltaDiscoveryResponse.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(SERVICE, {"DeltaSecrets": method})

    async def run(self) -> None:
        """Look for a rotated CA and for leaves that are due, for ever. What fails is logged, once for each reason."""
        said = ""
        while True:
            await asyncio.sleep(_LOOK)
            try:
                self.look(dt.datetime.now(dt.UTC))
                said = ""
            except OSError as error:  # a folder that was closed to us, or a disk that fails: it may be mended
                if str(error) != said:
                    said = str(error)
                    self._log.error("the CA cannot be looked at, leaves are not renewed", reason=said)

    def look(self, now: dt.datetime) -> None:
        """Forget leaves that are due, all of them where the CA's files have changed; open streams then get new ones."""
        mark = self._files()
        if mark != self._mark:
            asked = mark[-1] != self._mark[-1]
            self._mark = mark
            if not self._take_ca() and not asked:
                return
            self._made.clear()
            self._log.info("minting anew after a rotation")
        else:
            old = [name for name, minted in self._made.items() if due(minted.certificate, now)]
            for name in old:
                del self._made[name]
            if not old:
                return
        # each change has an event of its own: a stream that is slow to wake misses none
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _take_ca(self) -> bool:
        """Let the CA of the files sign from now on; whether it is another. One that cannot be used is not taken."""
        try:
            issuer = self._load()
        except ConfigError as error:
            self._log.error("changed CA refused, the old one signs on", reason=str(error))
            return False
        other = issuer.chain != self._issuer.chain or issuer.certificate != self._issuer.certificate
        self._issuer = issuer
        return other

    def _load(self) -> Authority:
        issuer = load_issuer(self._ca)
        for name in sorted(self._allowed):
            issuer.check_host(name)
        return issuer

    async def _deltas(self, _requests: AsyncIterator[pb.DeltaDiscoveryRequest], context: _Stream) -> None:
        """One stream: answer what is asked, replace what has become old."""
        if self._open >= _STREAMS:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many names")
        self._open += 1
        given: dict[str, str] = {}  # name -> version that Envoy has
        nonce = 0
        reading = asyncio.ensure_future(context.read())
        event = self._changed
        try:
            while True:
                changed = asyncio.ensure_future(event.wait())
                await asyncio.wait((reading, changed), return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
                event = self._changed  # before the look at what is old: a change from here on wakes the next round
                asked: list[str] = []
                if reading.done():
                    message = reading.result()
                    if message is grpc.aio.EOF:
                        return
                    asked = self._asked(message, given)
                    reading = asyncio.ensure_future(context.read())
                old = [name for name, version in given.items() if self._version(name) != version]
                response = await self._answer([*asked, *old], given)
                if response.resources or response.removed_resources:
                    nonce += 1
                    response.nonce = response.system_version_info = str(nonce)
                    await context.write(response)
        finally:
            self._open -= 1
            reading.cancel()

    def _asked(self, request: pb.DeltaDiscoveryRequest, given: dict[str, str]) -> list[str]:
        if request.HasField("error_detail"):
            self._log.error("Envoy refused a certificate", reason=request.error_detail.message[:500])
        for name in request.resource_names_unsubscribe:
            given.pop(name, None)
        return list(request.resource_names_subscribe)

    async def _answer(self, names: Iterable[str], given: dict[str, str]) -> pb.DeltaDiscoveryResponse:
        response = pb.DeltaDiscoveryResponse(type_url=TYPE_URL)
        for name in dict.fromkeys(names):
            if name not in self._allowed:
                self._refuse(name)
                response.removed_resources.append(name)
                continue
            resource = await self._leaf(name)
            given[name] = resource.version
            response.resources.append(resource)
        return response

    def _version(self, name: str) -> str:
        known = self._made.get(name)
        return known.resource.version if known is not None else ""

    async def _leaf(self, name: str) -> pb.Resource:
        """The leaf of an allowed name, made where there is none that is fresh. One name has one leaf at a time."""
        if name not in self._made:
            await self._pace.take()
        known = self._made.get(name)  # another stream may have made it meanwhile
        if known is None:
            started = time.perf_counter()
            leaf = self._issuer.issue([name], self._days)
            certificate = x509.load_pem_x509_certificate(leaf.cert_pem)
            known = _Minted(_resource(name, leaf, certificate), certificate)
            self._made[name] = known
            took = round((time.perf_counter() - started) * 1000, 2)
            self._log.info("minted", name=name, until=certificate.not_valid_after_utc.isoformat(), ms=took)
        return known.resource

    def _refuse(self, name: str) -> None:
        """The name is the caller's word: it is cut, and each is logged once a minute, no more than `_TOLD` of them."""
        now = time.monotonic()
        while self._told and next(iter(self._told.values())) < now - _TELL_AGAIN:
            self._told.popitem(last=False)
        if name in self._told or len(self._told) >= _TOLD:
            return
        self._told[name] = now
        self._log.warning("name refused", name=name[:253])

    def _files(self) -> tuple[tuple[int, int], ...]:
        """What tells a changed CA: inode and time of its files, last that of the wish for new leaves."""
        found = []
        for name in (INTERMEDIATE, CA_KEY, CA_CERTIFICATE, _ROTATED):
            try:
                status = (self._ca / name).stat()
                found.append((status.st_ino, status.st_mtime_ns))
            except FileNotFoundError:
                found.append((0, 0))
        return tuple(found)


def _resource(name: str, leaf: Leaf, certificate: x509.Certificate) -> pb.Resource:
    tls = pb.TlsCertificate(
        certificate_chain=pb.DataSource(inline_bytes=leaf.cert_pem),
        private_key=pb.DataSource(inline_bytes=leaf.key_pem),
    )
    secret = pb.Secret(name=name, tls_certificate=tls)
    packed = Any(type_url=TYPE_URL, value=secret.SerializeToString())
    return pb.Resource(name=name, version=f"{certificate.serial_number:x}", resource=packed)


class MintServer:
    """The minter on its Unix socket, mode 0600; 0660 in a folder that is made for its group (a pod's shared volume)."""

    def __init__(self, minter: Minter, path: Path) -> None:
        self._minter = minter
        self._path = path
        self._server: grpc.aio.Server | None = None
        self._looking: asyncio.Future[None] | None = None

    async def start(self) -> None:
        """Listen, and keep leaves fresh. Raises ConfigError where the socket cannot be made."""
        make_folder(self._path.parent)
        self._path.unlink(missing_ok=True)
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0), ("grpc.http2.max_ping_strikes", 0)])
        server.add_generic_rpc_handlers((self._minter.handler(),))
        try:
            server.add_insecure_port(f"unix:{self._path.absolute()}")
        except RuntimeError:
            hint = "use a state folder with a shorter path"
            raise ConfigError(str(self._path), "cannot listen there (a Unix socket's path is short)", hint) from None
        await server.start()
        self._path.chmod(0o660 if group_shares(self._path.parent) else 0o600)
        self._server = server
        self._looking = asyncio.ensure_future(self._minter.run())

    async def stop(self) -> None:
        """Stop listening; Envoy keeps what it has."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        if self._server is not None:
            await self._server.stop(0)
        self._path.unlink(missing_ok=True)
