"""Clients for the simulator's tests."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2

from extproc.sim import Simulator


@asynccontextmanager
async def http(sim: Simulator, trust: ssl.SSLContext, *, http2: bool = False) -> AsyncIterator[httpx2.AsyncClient]:
    """A plain client of the simulator."""
    base = f"https://localhost:{sim.port}"
    async with httpx2.AsyncClient(
        verify=trust, http1=not http2, http2=http2, base_url=base, trust_env=False, timeout=20
    ) as client:
        yield client
