"""The standard gRPC health service (https://github.com/grpc/grpc/blob/master/doc/health-checking.md): Check and Watch.

Envoy asks it on the same connection that carries the exchanges, and takes a worker that says NOT_SERVING out of its
cluster. A draining worker says so first and stops taking streams a moment later.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final, TypeAlias

import grpc
import structlog

from extproc.adapters._pb import health_pb2

SERVICE: Final = "grpc.health.v1.Health"
KNOWN: Final = frozenset({"", "envoy.service.ext_proc.v3.ExternalProcessor"})

_Status: TypeAlias = health_pb2.HealthCheckResponse.ServingStatus
_Context: TypeAlias = "grpc.aio.ServicerContext[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse]"


class Health:
    """One worker's health. Starts as not serving. Belongs to the event loop's thread."""

    def __init__(self) -> None:
        """Not serving yet."""
        self._serving = False
        self._detail = "starting"
        self._closed = False
        self._changed = asyncio.Event()
        self._log = structlog.get_logger("extproc.health")

    @property
    def serving(self) -> bool:
        """Whether new calls are welcome."""
        return self._serving

    @property
    def detail(self) -> str:
        """Why, in plain words."""
        return self._detail

    def set(self, *, serving: bool, detail: str = "") -> None:
        """Change the answer; those who watch are told at once."""
        if serving is not self._serving:
            self._log.info("serving" if serving else "not serving", detail=detail)
        self._serving, self._detail = serving, detail
        self._tell()

    def close(self) -> None:
        """End the streams of those who watch: they would hold a draining server up to its last second."""
        self._closed = True
        self._tell()

    def _tell(self) -> None:
        # each change has an event of its own: a watcher that is slow to wake misses none
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def handler(self) -> grpc.GenericRpcHandler:
        """Give the service, for `grpc.aio.Server.add_generic_rpc_handlers`."""
        coding = {
            "request_deserializer": health_pb2.HealthCheckRequest.FromString,
            "response_serializer": health_pb2.HealthCheckResponse.SerializeToString,
        }
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Check": grpc.unary_unary_rpc_method_handler(self._check, **coding),
                "Watch": grpc.unary_stream_rpc_method_handler(self._watch, **coding),
            },
        )

    def _status(self, service: str) -> _Status:
        if service not in KNOWN:
            return health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        return health_pb2.HealthCheckResponse.SERVING if self._serving else health_pb2.HealthCheckResponse.NOT_SERVING

    async def _check(self, request: health_pb2.HealthCheckRequest, context: _Context) -> health_pb2.HealthCheckResponse:
        if request.service not in KNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return health_pb2.HealthCheckResponse(status=self._status(request.service))

    async def _watch(
        self, request: health_pb2.HealthCheckRequest, _context: _Context
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        # the protocol keeps the stream of an unknown service open, for it might come to be
        told: _Status | None = None
        while True:
            changed = self._changed
            status = self._status(request.service)
            if status != told:
                yield health_pb2.HealthCheckResponse(status=status)
                told = status
            if self._closed:
                return
            await changed.wait()
