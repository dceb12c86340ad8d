"""Valkey dies or is ended under load, and limits let calls through meanwhile: no caller notices, all is counted once."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from envoy.limit_calls import Store, quotas
from envoy.limit_crowd import Crowd, compared, played
from envoy.machine import Machine, running

pytestmark = pytest.mark.envoy


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A gateway whose limits let calls through while the store is away."""
    with running(tmp_path_factory.mktemp("lb"), extra=quotas("allow-bounded", lease=3.0)) as machine:
        yield machine


@pytest.fixture(scope="module")
def base(gateway: Machine) -> Crowd:
    """The load without a restart."""
    return played(gateway, "base")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_valkey_is_restarted_under_load_and_limits_allow(
    gateway: Machine, base: Crowd, number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    """500 calls in flight: none fails, none is slower for it, every one is counted once."""
    crowd = played(gateway, f"restart-{number.name}", number)

    figures = compared(f"allow-bounded, {number.name}", crowd, base)
    with capsys.disabled():
        print(figures)
    assert not base.failed
    assert not crowd.failed
    Store(gateway).check({one.label: one.total() for one in (base, crowd)})
