"""64 callers at once, two replicas of four workers, one store: what fits is admitted, and not one call more."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from envoy.limits_machine import (
    CAP,
    NANO,
    SHAPES,
    Ask,
    Books,
    Storm,
    Watch,
    clear_of_the_end,
    held,
    replicas,
    rule,
    section,
    storm,
)
from envoy.machine import LIMITS, Machine
from valkeys import server

pytestmark = [pytest.mark.envoy, pytest.mark.timeout(300)]

CALLERS = 64
FIT = 10
ROUNDS = 20
HOLDS = (1500, 4000, 12000)  # milliseconds: longer than all take to be admitted or refused, on a busy machine too
OTHER = "gpt-4.1-mini"
HUGE = 1_000_000
KINDS = [Ask(kind, stream) for kind, stream in SHAPES]
BUDGETS = (
    rule("probe_money", "money", "month", HUGE, match={"feature": "probe-*"}),
    rule("probe_tokens", "tokens", "month", HUGE, match={"feature": "probe-*"}),
    rule("rate", "requests", "minute", FIT, "app feature"),
    rule("drip", "requests", "bucket", FIT, "organisation feature", period="7d"),
    rule("flights", "requests", "concurrent", FIT, "team feature"),
    rule("deep_team", "requests", "month", FIT, "team feature", match={"feature": "deep-*"}),
    rule("deep_model", "requests", "month", 6, "app model feature", match={"feature": "deep-*"}),
    rule("deep_money", "money", "day", HUGE, "organisation feature", match={"feature": "deep-*"}),
)
numbers = itertools.count(1)


@dataclass(frozen=True)
class Race:
    """The replicas, the books, and what the store holds for one call of each shape: the worst case, as measured.

    `money`: billionths of a dollar; `budget`: of the rules by name, in the unit of their kind.
    """

    machines: list[Machine]
    books: Books
    money: dict[Ask, int]
    tokens: dict[Ask, int]
    budget: dict[str, int]


def probe(machines: Sequence[Machine], books: Books, prefix: str) -> dict[tuple[str, str], int]:
    """The most that was held for each shape of call, by rule and feature."""
    with Watch(books) as watch:
        for place, ask in enumerate(KINDS):
            reply = storm(machines[:1], [held(ask, 400)], f"{prefix}-{place}").replies[0]
            assert reply.status == 200, reply
    books.settled()
    return watch.peak


@pytest.fixture(scope="module")
def race(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Race]:
    """Replicas whose budgets are set live, to ten times what was seen to be held for a call."""
    folder: Path = tmp_path_factory.mktemp("race")
    with ExitStack() as stack, server() as store:
        # exact: the same call has the same worst case in each worker, whatever it has learned
        more: dict[str, Any] = {"exact_input": True, "store": {"url": f"unix://{store.path}", "timeout": "5s"}}
        with replicas(folder, 2, 4, LIMITS + section(BUDGETS, **more)) as machines:
            of_store = stack.enter_context(closing(store.client()))
            books = Books(of_store)
            storm(machines, KINDS[:1] * CALLERS, "warm-up")  # each worker reads its tokenizer's ranks on first use
            peak = probe(machines, books, "probe")
            money = {ask: peak["probe_money", f"probe-{place}"] for place, ask in enumerate(KINDS)}
            tokens = {ask: peak["probe_tokens", f"probe-{place}"] for place, ask in enumerate(KINDS)}
            chat = KINDS[0]
            budget = {
                "money": FIT * money[chat],
                "mixed": FIT * max(money.values()),
                "tokens": FIT * tokens[chat] + tokens[chat] - 1,
            }
            rules = (
                *BUDGETS,
                rule("money", "money", "month", budget["money"] / NANO, "team feature"),
                rule("mixed", "money", "month", budget["mixed"] / NANO, "team feature"),
                rule("tokens", "tokens", "day", budget["tokens"], "app feature"),
            )
            for machine in machines:
                machine.write_config(LIMITS + section(rules, **more))
            for machine in machines:
                machine.wait_live()
            yield Race(machines, books, money, tokens, budget)


def run(race: Race, prefix: str, asks: Sequence[Ask]) -> tuple[str, Storm, dict[tuple[str, str], int]]:
    """A round on counters of its own: their feature, the answers, and the most that was out on each counter."""
    feature = f"{prefix}-{next(numbers)}"
    with Watch(race.books) as watch:
        done = storm(race.machines, asks, feature)
    race.books.settled()
    watch.look()
    peak = {key: most for key, most in watch.peak.items() if key[1].split("/")[-1] == feature}
    return feature, done, peak


def run_held(race: Race, prefix: str, asks: Sequence[Ask]) -> tuple[str, Storm, dict[tuple[str, str], int]]:
    """The same; no call is over, and so gives anything back, before all are admitted or refused."""
    for hold in HOLDS:
        clear_of_the_end(60, hold / 1000 + 3)
        feature, done, peak = run(race, prefix, [held(ask, hold) for ask in asks])
        if done.all_decided_at_once():
            return feature, done, peak
    raise AssertionError("calls were admitted and refused more slowly than they could be held: nothing is shown")


def test_what_was_measured_covers_what_is_used(race: Race) -> None:
    """A worst case is never below what the call came to, and near it: each says as much as it may."""
    for place, ask in enumerate(KINDS):
        used = race.books.of(f"probe-{place}")
        assert 0 < used["probe_money"].used <= race.money[ask] <= 2 * used["probe_money"].used, ask
        assert CAP < used["probe_tokens"].used <= race.tokens[ask] <= 2 * used["probe_tokens"].used, ask
        assert used["probe_money"].reserved == used["probe_tokens"].reserved == 0


def test_a_budget_of_ten_worst_cases_admits_ten_in_each_of_twenty_rounds(race: Race) -> None:
    """Exactly ten of 64, held to the last billionth; what was settled stays below, and nothing stays reserved."""
    chat, budget = KINDS[0], race.budget["money"]
    for _ in range(ROUNDS):
        feature, done, peak = run_held(race, "money", [chat] * CALLERS)
        assert done.statuses() == {(200, ""): FIT, (402, "policy_budget_exceeded"): CALLERS - FIT}
        assert set(peak.values()) == {budget}
        count = race.books.of(feature)["money"]
        assert 0 < count.used <= budget
        assert count.reserved == 0
        assert count.used % FIT == 0  # ten calls that used the same


def test_mixed_shapes_count_against_one_budget(race: Race) -> None:
    """Chat, Responses and Messages, streams and not: those are admitted whose worst cases fit, and no refused one would."""
    budget, dice = race.budget["mixed"], random.Random(4)
    for _ in range(3):
        asks = [dice.choice(KINDS) for _ in range(CALLERS)]
        feature, done, peak = run_held(race, "mixed", asks)
        assert set(done.statuses()) == {(200, ""), (402, "policy_budget_exceeded")}
        taken = sum(race.money[asks[place]] for place in done.admitted)
        assert taken <= budget
        assert all(taken + race.money[asks[place]] > budget for place in done.refused)
        assert set(peak.values()) == {taken}
        count = race.books.of(feature)["mixed"]
        assert (0 < count.used <= taken, count.reserved) == (True, 0)


def test_calls_that_end_make_room_and_never_too_much(race: Race) -> None:
    """Without a wait at the vendor: more than ten pass, since each gives back what it did not use; the budget holds."""
    chat, budget = KINDS[0], race.budget["money"]
    for _ in range(3):
        feature, done, peak = run(race, "money", [held(chat, 0, CAP // 4)] * CALLERS)
        assert set(done.statuses()) == {(200, ""), (402, "policy_budget_exceeded")}
        assert len(done.admitted) >= FIT
        assert max(peak.values()) <= budget
        count = race.books.of(feature)["money"]
        assert (0 < count.used <= budget, count.reserved) == (True, 0)
        each, rest = divmod(count.used, len(done.admitted))
        assert rest == 0
        assert each < race.money[chat]


@pytest.mark.parametrize("name", ["tokens", "rate", "drip", "flights"])
def test_other_kinds_and_windows(race: Race, name: str) -> None:
    """Tokens a day, requests a minute, a bucket, calls in flight: ten of 64 pass, streams and not, on all APIs."""
    codes = {"flights": "policy_concurrency_limited"}
    for _ in range(2):
        asks = KINDS[:1] * CALLERS if name == "tokens" else [KINDS[place % len(KINDS)] for place in range(CALLERS)]
        feature, done, peak = run_held(race, name, asks)
        error = codes.get(name, "policy_rate_limited")
        assert done.statuses() == {(200, ""): FIT, (429, error): CALLERS - FIT}
        whole = FIT * race.tokens[KINDS[0]] if name == "tokens" else FIT
        assert set(peak.values()) == {whole}
        count = race.books.of(feature)[name]
        assert count.reserved == 0
        assert {"flights": count.used == 0, "tokens": 0 < count.used <= whole}.get(name, count.used == FIT)


def test_calls_in_flight_come_back(race: Race) -> None:
    """The same counter again: when ten have ended, ten more pass."""
    feature = f"flights-{next(numbers)}"
    for _ in range(3):
        done = storm(race.machines, [held(KINDS[0], HOLDS[-1] // 4)] * CALLERS, feature)
        race.books.settled()
        assert len(done.admitted) == FIT


def test_scopes_one_in_another(race: Race) -> None:
    """A limit of the team and one of each app and model: all or none, so a refused call holds nothing anywhere."""
    asks = [Ask("chat", place % 4 > 1, model=(OTHER if place % 3 else "gpt-4o-mini")) for place in range(CALLERS)]
    for _ in range(3):
        feature, done, peak = run_held(race, "deep", asks)
        assert done.statuses() == {(200, ""): FIT, (429, "policy_rate_limited"): CALLERS - FIT}
        models = Counter(asks[place].model for place in done.admitted)
        assert max(models.values()) <= 6
        most = {(name, value): amount for (name, value), amount in peak.items() if name != "deep_money"}
        expected = {("deep_model", f"demo/{model}/{feature}"): count for model, count in models.items()}
        assert most == {("deep_team", f"demo/{feature}"): FIT, **expected}
        counts = race.books.of(feature)
        assert all(count.reserved == 0 for count in counts.values())
        assert counts["deep_money"].used > 0


def test_nothing_was_expired_and_nothing_kept_in_a_worker(race: Race) -> None:
    """After all of it: no reservation is open, none ended by its lease, none was made without the store."""
    race.books.settled()
    assert all(count.reserved == 0 for count in race.books.all().values())
    for machine in race.machines:
        text = machine.get("metrics", "/metrics")
        samples = [line.split() for line in text.splitlines() if line.startswith("llm_limit_")]
        totals = {name: sum(float(value) for key, value in samples if key.startswith(name)) for name in NONE}
        assert totals == dict.fromkeys(NONE, 0.0)
        assert any(key.startswith("llm_limit_refused_total") and float(value) > 0 for key, value in samples)


NONE = ("llm_limit_expired_total", "llm_limit_local_total", "llm_limit_lost_total", "llm_limit_overshoot_total")
