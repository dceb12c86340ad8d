"""What an operator changes while the gateway runs: top-ups, overrides, resets, gateway.yaml."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from envoy.limits_machine import Ask, Books, Count, call, fresh, rule, section, until
from envoy.machine import LIMITS, Machine, running

pytestmark = pytest.mark.envoy

FOLLOW = 3.0  # seconds within which each worker knows of a live override
RULES = (
    rule("live", "requests", "day", 2, overrides={"live-own": 3}),
    rule("changed", "requests", "day", 2),
)


def extra(rules: tuple[dict[str, Any], ...] = RULES) -> str:
    """The rest of gateway.yaml."""
    return LIMITS + section(rules)


@pytest.fixture(scope="module")
def shared_limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A gateway with the store that it starts itself."""
    with running(tmp_path_factory.mktemp("lim"), extra=extra()) as machine:
        yield machine


# ---- what an operator changes live ------------------------------------------------------------------------------


def limits(machine: Machine, *words: str) -> Any:
    """`extproc limits`, as JSON."""
    done = machine.cli("limits", *words, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def shown(machine: Machine, name: str, value: str) -> dict[str, Any]:
    """One counter, as the command shows it."""
    (found,) = limits(machine, "show", "--rule", name, "--value", value)["counters"]
    return found


def passes(machine: Machine, feature: str) -> int:
    """How many calls pass until one is refused."""
    for count in range(20):
        if call(machine, Ask(), feature).status != 200:
            return count
    raise AssertionError("nothing is limited")


def test_show_grant_and_reset(limited: Machine, books: Books) -> None:
    """A top-up and a reset change what the next call may do, in every worker."""
    feature = fresh("live")
    assert passes(limited, feature) == 2
    books.settled()
    found = shown(limited, "live", feature)
    assert (found["used"], found["reserved"], found["limit"], found["remaining"]) == (2, 0, 2, 0)
    after = limits(limited, "grant", "live", feature, "3")["after"]
    assert (after["limit"], after["remaining"], after["top_up"]) == (5, 3, 3)
    assert passes(limited, feature) == 3
    books.settled()
    after = limits(limited, "reset", "live", feature)["after"]
    assert after["used"] == 0
    assert passes(limited, feature) == after["limit"]


def test_a_live_override(limited: Machine, books: Books) -> None:
    """A limit of its own for one value, for all windows, until it is taken away; within seconds in every worker."""
    feature = fresh("live")
    assert passes(limited, feature) == 2
    assert limits(limited, "grant", "live", feature, "6", "--set")["after"]["limit"] == 6
    until(lambda: call(limited, Ask(), feature).status == 200)
    time.sleep(FOLLOW)
    assert passes(limited, feature) == 3
    books.settled()
    assert shown(limited, "live", feature)["override"] == 6
    assert limits(limited, "grant", "live", feature, "--unset")["after"]["limit"] == 2
    time.sleep(FOLLOW)
    limits(limited, "reset", "live", feature)
    assert passes(limited, feature) == 2


def test_an_override_of_the_configuration(limited: Machine) -> None:
    """One value has a limit of its own."""
    assert passes(limited, "live-own") == 3


def test_a_changed_limit_keeps_what_is_used_and_reserved(limited: Machine, books: Books) -> None:
    """gateway.yaml is edited while one call has ended and one is open: they count on, under the new limit."""
    feature = fresh("changed")
    assert call(limited, Ask(), feature).status == 200
    books.settled()
    slow = Ask(stream=True, sim=(("delay-ms", "100"), ("chunk-ms", "60"), ("tokens", "100")), cap=200)
    open_call = threading.Thread(target=call, args=(limited, slow, feature), daemon=True)
    open_call.start()
    until(lambda: books.one("changed", feature).reserved == 1)
    assert call(limited, Ask(), feature).status == 429
    generation = 1
    try:
        for limit, more in ((4, 2), (1, 0)):
            changed = tuple({**one, "limit": limit} if one["name"] == "changed" else one for one in RULES)
            limited.write_config(extra(changed))
            generation += 1
            limited.wait_live(generation)
            assert passes(limited, feature) == more
        count = books.one("changed", feature)
        assert (count.out, open_call.is_alive()) == (4, True)
        open_call.join(20)
        books.settled()
        assert books.one("changed", feature) == Count(4, 0)
    finally:
        limited.write_config(extra())
        limited.wait_live(generation + 1)
