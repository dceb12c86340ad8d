"""One server for the session, one organisation for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from limits.store import server
from valkey import Valkey


@pytest.fixture(scope="session")
def socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with server(tmp_path_factory.mktemp("valkey")) as path:
        yield path


@pytest.fixture
def client(socket: Path) -> Iterator[Valkey]:
    with Valkey(unix_socket_path=str(socket)) as connected:
        yield connected
        connected.flushall()
