"""One gateway for all tests of this folder that do not break it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from envoy import redaction_config
from envoy.limit_kills import mortal, well
from envoy.limits_machine import Books, clear_of_the_end, embedded
from envoy.machine import Machine, running
from envoy.redaction_values import Plants


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


TIGHT = """
limits: {request_body: 1MiB, response_body: 2MiB}
timeouts:
  default: standard
  classes:
    standard: {first_byte: 10s, idle: 20s, total: 30s}
    hasty: {first_byte: 0.5s, idle: 1s, total: 20s}
    brief: {first_byte: 1s, idle: 2s, total: 1s}
  models: {"hasty*": hasty, "brief*": brief}
"""


@pytest.fixture(scope="session")
def shared_tight(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """The gateway of `tight`."""
    with running(tmp_path_factory.mktemp("tight"), extra=TIGHT, workers=1, alpn=("http/1.1",)) as machine:
        yield machine


@pytest.fixture
def tight(shared_tight: Machine) -> Machine:
    """A gateway with small limits and timeouts, before vendors that speak HTTP/1.1 only."""
    shared_tight.forget()
    return shared_tight


@pytest.fixture(scope="session")
def shared_redacting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """The gateway of `redacting`."""
    with running(tmp_path_factory.mktemp("redacting"), **redaction_config.OPTIONS) as machine:
        yield machine


@pytest.fixture
def redacting(shared_redacting: Machine) -> Machine:
    """A gateway that redacts, with a profile for each thing that is tested."""
    shared_redacting.forget()
    return shared_redacting


@pytest.fixture
def limited(shared_limited: Machine) -> Machine:
    """The gateway with limits of a test module, `shared_limited`, without a memory of earlier tests."""
    shared_limited.forget()
    clear_of_the_end(3600, 20)
    return shared_limited


@pytest.fixture
def books(limited: Machine) -> Iterator[Books]:
    """What its store holds."""
    with embedded(limited) as found:
        yield found


@pytest.fixture(scope="module")
def shared_killable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A gateway with limits whose parts may be killed."""
    with mortal(tmp_path_factory.mktemp("lk")) as one:
        yield one


@pytest.fixture
def killable(shared_killable: Machine) -> Machine:
    """All of it up, nothing remembered."""
    return well(shared_killable)


@pytest.fixture(scope="session")
def plants() -> Plants:
    """What the tests of this run planted."""
    return Plants(int.from_bytes(secrets.token_bytes(4)))
