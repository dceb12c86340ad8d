"""One gateway for all tests of this folder that do not break it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from envoy.machine import Machine, running


@pytest.fixture(scope="session")
def shared_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """The gateway itself; tests use `gateway`."""
    folder: Path = tmp_path_factory.mktemp("gw")
    with running(folder) as machine:
        yield machine


@pytest.fixture
def gateway(shared_gateway: Machine) -> Machine:
    """The running gateway, its vendors with no memory of earlier tests."""
    shared_gateway.forget()
    return shared_gateway
