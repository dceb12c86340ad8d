"""One server for the session, one organisation for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from valkey import Valkey

from valkeys import server


@pytest.fixture(scope="session")
def socket() -> Iterator[Path]:
    with server() as running:
        yield running.path


@pytest.fixture
def client(socket: Path) -> Iterator[Valkey]:
    with Valkey(unix_socket_path=str(socket)) as connected:
        yield connected
        connected.flushall()
