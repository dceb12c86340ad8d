"""Valkey dies under load, and limits deny meanwhile: nothing else fails, nothing is slower, all is counted once.

The same where limits let calls through: test_limits_restart_bounded.py.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from envoy.limit_calls import Store, quotas
from envoy.limit_crowd import AWAY, compared, played
from envoy.machine import Machine, running

pytestmark = pytest.mark.envoy

STRAY = 0.01  # of the calls: denied because the machine was too busy to answer a reservation in its 50 ms


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A gateway whose limits deny while the store is away."""
    with running(tmp_path_factory.mktemp("ld"), extra=quotas("deny", lease=3.0)) as machine:
        yield machine


def test_valkey_is_killed_under_load_and_limits_deny(gateway: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    """500 calls in flight: none of them fails, new ones are denied until it is back, every one is counted once."""
    base = played(gateway, "base")
    crowd = played(gateway, "killed", signal.SIGKILL)

    figures = compared("deny, SIGKILL", crowd, base)
    with capsys.disabled():
        print(figures)
    for call in (*base.failed, *crowd.failed):
        assert (call.reply.status, call.reply.headers["x-llm-error"]) == (503, AWAY)
    assert all(call.reply.began >= crowd.at - 0.2 for call in crowd.failed if call not in crowd.stray)
    assert len(base.failed) + len(crowd.stray) <= STRAY * (len(base.calls) + len(crowd.calls))
    Store(gateway).check({one.label: one.total() for one in (base, crowd)})
