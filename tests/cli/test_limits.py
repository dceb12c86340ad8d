"""`extproc limits show|grant|reset` on a real store."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

import valkeys
from extproc.adapters.limit_service import LimitService
from extproc.adapters.metrics import MetricsSink
from extproc.adapters.valkey_process import socket_path
from extproc.cli import limits
from extproc.cli.main import main
from extproc.config import load
from extproc.config.quotas import compile_rules
from extproc.exchange.effects import Reserve, Settle
from extproc.limits.counters import NANO, Charge, Subject
from extproc.limits.rules import Rules
from extproc.limits.scripts import Booking, Calls, Handle, Name, State, overrides_version_key, read, script
from extproc.limits.windows import span

CONFIG = """
version: 1
providers:
  main: {{api: openai, hosts: [api.openai.com]}}
quotas:
  organisation: acme
  store: {{url: "{url}"}}
  rules:
  - {{name: team_month, kind: money, window: month, limit: 500, scope: [team], overrides: {{search: 900}}}}
  - {{name: app_rate, kind: requests, window: bucket, limit: 60, period: 60s, scope: [app], mode: soft}}
  - {{name: flights, kind: requests, window: concurrent, limit: 8}}
"""


@pytest.fixture(scope="module")
def server() -> Iterator[valkeys.Server]:
    with valkeys.server() as one:
        yield one


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, server: valkeys.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("EXTPROC_CONFIG", "EXTPROC_STATE"):
        monkeypatch.delenv(name, raising=False)
    server.client().flushall()
    Path("gateway.yaml").write_text(CONFIG.format(url=f"unix://{server.path}"))


def call(*arguments: str) -> int:
    return main(["limits", *arguments])


def rules() -> Rules:
    quotas = load(Path("gateway.yaml").read_bytes(), "gateway.yaml", base=Path()).quotas
    assert quotas is not None
    return Rules(compile_rules(quotas))


def used(server: valkeys.Server, subject: Subject, dollars: float, *, settle: bool = True) -> None:
    """One call by these: a dollar amount and a request; left open unless it is to be settled."""
    now = time.time_ns() // 1_000_000
    bookings = [
        Booking(
            counter,
            round(dollars * NANO) if counter.rule.name == "team_month" else 1,
            counter.rule.limit,
            span(counter.rule.window, "UTC", now) if counter.rule.name == "team_month" else None,
        )
        for counter in rules().counters(subject)
    ]
    handle = Handle(subject.organisation, f"{now}-{time.perf_counter_ns()}")
    wanted = [(Name.RESERVE, Calls().reserve(handle, bookings, 60_000), State.GRANTED)]
    if settle:
        wanted.append((Name.SETTLE, Calls().settle(handle, bookings), State.SETTLED))
    for name, args, state in wanted:
        raw = server.client().eval(script(name).source, *_eval(args))
        assert read(raw, bookings).state is state


def _eval(args: Sequence[bytes]) -> tuple[object, ...]:
    return int(args[0]), *args[1:]


SEARCH = Subject("acme", team="search", app="chat")


def test_show_as_a_table(server: valkeys.Server, capsys: pytest.CaptureFixture[str]) -> None:
    """Amounts in their unit, overrides and top-ups marked, the fullest of a limit first; reservations in a last line."""
    used(server, SEARCH, 450.125)
    used(server, Subject("acme", team="ops", app="chat"), 400)
    used(server, SEARCH, 1.5, settle=False)
    assert call("grant", "team_month", "ops", "25") == 0
    capsys.readouterr()
    assert call("show") == 0
    said = capsys.readouterr()
    head, *lines = said.out.splitlines()
    assert head.split()[:6] == ["RULE", "VALUE", "WINDOW", "USED", "RESERVED", "LIMIT"]
    assert [line.split()[:2] for line in lines] == [
        ["team_month", "ops"],
        ["team_month", "search"],
        ["app_rate", "chat"],
        ["flights", "acme"],
    ]
    assert lines[0].split()[3:9] == ["$400.00", "$0.0000", "$525.00", "$125.00", "77", "%"]
    assert lines[0].endswith("top-up $25.0000")
    assert lines[1].split()[3:9] == ["$450.13", "$1.5000", "$900.00", "$448.37", "51", "%"]
    assert lines[1].endswith("override")
    assert lines[2].endswith("soft")
    assert lines[3].split()[2:7] == ["concurrent", "0", "1", "8", "7"]
    assert "1 call holds a reservation" in said.err


def test_show_as_json_and_in_part(server: valkeys.Server, capsys: pytest.CaptureFixture[str]) -> None:
    """Money is exact text; one limit, one value, a pattern; a value that was never counted shows its limit."""
    used(server, SEARCH, 0.000000001)
    used(server, Subject("acme", team="sea", app="chat"), 2)

    def shown(*arguments: str) -> list[dict[str, object]]:
        assert call("show", "--json", *arguments) == 0
        document = json.loads(capsys.readouterr().out)
        assert document["organisation"] == "acme"
        assert document["reservations"] == {"open": 0, "overdue": 0}
        counters: list[dict[str, object]] = document["counters"]
        return counters

    both = shown("--rule", "team_month")
    assert [one["value"] for one in both] == ["sea", "search"]
    assert both[1]["used"] == "0.000000001"
    assert both[1]["limit"] == "900.000000000"
    assert str(both[1]["resets_at"]).endswith("-01T00:00:00.000Z")
    assert [one["value"] for one in shown("--rule", "team_month", "--value", "sea")] == ["sea"]
    assert [one["value"] for one in shown("--value", "sea*")] == ["sea", "search"]
    (unknown,) = shown("--rule", "team_month", "--value", "nobody")
    assert (unknown["used"], unknown["limit"]) == ("0.000000000", "500.000000000")
    assert call("show", "--json", "--organisation", "other") == 0
    assert json.loads(capsys.readouterr().out)["counters"] == []


def test_an_override_is_live_until_it_is_unset(server: valkeys.Server, capsys: pytest.CaptureFixture[str]) -> None:
    """The workers see it by its version; before and after are told."""
    used(server, SEARCH, 1)
    key = overrides_version_key("acme")
    assert call("grant", "team_month", "search", "1,200.50", "--set", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["before"]["limit"], told["after"]["limit"]) == ("900.000000000", "1200.500000000")
    assert told["after"]["override"] == "1200.500000000"
    version = int(server.client().get(key))
    assert call("show") == 0
    assert "override (live)" in capsys.readouterr().out
    assert call("grant", "team_month", "search", "--unset") == 0
    assert int(server.client().get(key)) > version
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [(row[0], row[6]) for row in rows] == [("before", "$1,200.50"), ("after", "$900.00")]


def test_reset_forgets_what_was_used(server: valkeys.Server, capsys: pytest.CaptureFixture[str]) -> None:
    """What calls in flight hold stays."""
    used(server, SEARCH, 100)
    used(server, SEARCH, 7, settle=False)
    assert call("reset", "team_month", "search", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["before"]["used"], told["before"]["reserved"]) == ("100.000000000", "7.000000000")
    assert (told["after"]["used"], told["after"]["reserved"]) == ("0.000000000", "7.000000000")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("grant", "team_mont", "search", "5"), ("'team_mont' is no limit", "did you mean team_month?")),
        (("grant", "zzz", "search", "5"), ("there are: app_rate, flights, team_month",)),
        (
            ("grant", "team_month", "serach", "5"),
            ("nothing has been counted for 'serach'", "did you mean search?", "--new"),
        ),
        (("reset", "app_rate", "chta"), ("did you mean chat?",)),
        (("grant", "team_month", "search/x", "5"), ("has 2 values for 1 dimensions", "team")),
        (("grant", "team_month", "search", "five"), ("is not an amount", "dollars")),
        (("grant", "team_month", "search", "-5", "--set"), ("is negative",)),
        (("grant", "team_month", "search", "99999999999"), ("too large",)),
        (("grant", "app_rate", "chat", "1.5"), ("is not an amount", "whole number")),
        (("grant", "team_month", "search"), ("AMOUNT: is missing",)),
        (("grant", "team_month", "search", "5", "--unset"), ("no meaning with --unset",)),
        (("grant", "flights", "acme", "5"), ("calls in flight", "--set")),
        (("grant", "flights", "other", "5", "--set"), ("'other' is not the organisation 'acme'",)),
        (("show", "--organisation", "a{b}"), ("braces",)),
    ],
)
def test_what_is_wrong_is_said_with_the_cure(
    server: valkeys.Server, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    """Exit code 1, nothing changed, the near names offered."""
    used(server, SEARCH, 1)
    before = server.client().dbsize()
    assert call(*arguments) == 1
    said = capsys.readouterr()
    assert said.out == ""
    for word in words:
        assert word in said.err
    assert server.client().dbsize() == before


def test_new_values_take_an_amount_beforehand(server: valkeys.Server, capsys: pytest.CaptureFixture[str]) -> None:
    """With --new; of limits that count the whole organisation there is one value only, which needs no --new."""
    assert call("grant", "team_month", "fresh", "5", "--new", "--json") == 0
    assert json.loads(capsys.readouterr().out)["after"]["top_up"] == "5.000000000"
    assert call("grant", "flights", "acme", "12", "--set", "--json") == 0
    assert json.loads(capsys.readouterr().out)["after"]["limit"] == 12


async def test_what_is_changed_is_live_in_a_running_worker(tmp_path: Path) -> None:
    """A top-up and a reset at the next call, an override and its end within a second or so; nothing is restarted."""
    config = load(Path("gateway.yaml").read_bytes(), "gateway.yaml", base=Path())
    registry = CollectorRegistry()
    notes: list[tuple[str, str]] = []
    service = LimitService(config, tmp_path, {}, MetricsSink(registry, 10).limits, lambda *note: notes.append(note))
    await service.open()
    (counter,) = (one for one in rules().counters(SEARCH) if one.rule.name == "team_month")
    numbers = itertools.count()

    async def passes(dollars: int) -> bool:
        name = str(next(numbers))
        reserved = await service.limits.reserve(Reserve(name, "acme", (Charge(counter, dollars * NANO),)))
        if not reserved.refused:
            service.limits.settle(Settle(name, (0,)))
        return not reserved.refused

    async def command(*arguments: str) -> None:
        assert await asyncio.to_thread(call, *arguments) == 0

    async def becomes(expected: bool, dollars: int) -> None:
        for _ in range(60):
            if await passes(dollars) is expected:
                return
            await asyncio.sleep(0.05)
        pytest.fail(f"{dollars} dollars are not {expected} after three seconds")

    try:
        assert await passes(900)
        assert not await passes(950)
        await command("grant", "team_month", "search", "50")
        assert await passes(950)
        await command("grant", "team_month", "search", "2000", "--set")
        await becomes(True, 2050)
        assert not await passes(2051)
        await command("grant", "team_month", "search", "--unset")
        await becomes(False, 951)
        assert await passes(950)
    finally:
        await service.drain()
    assert registry.get_sample_value("llm_limit_store_breaks_total") == 0


def test_a_store_that_is_away_is_an_error(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """In bounded time, exit code 1, as JSON where wanted, and the cure; the log of the connection is not mixed in."""
    Path("gateway.yaml").write_text(CONFIG.format(url=f"unix://{tmp_path}/none.sock"))
    began = time.monotonic()
    assert call("show", "--json") == 1
    assert time.monotonic() - began < 10
    said = capsys.readouterr()
    assert said.out == ""
    (error,) = json.loads(said.err)["errors"]
    assert error["path"] == "quotas.store"
    assert "does not answer" in error["reason"]


def test_the_embedded_store_is_found_by_the_state_folder(capsys: pytest.CaptureFixture[str]) -> None:
    """That of a gateway that runs here; none runs: say how to start one."""
    with valkeys.short_folder() as state:
        Path("gateway.yaml").write_text(CONFIG.format(url="embedded"))
        assert call("show", "--state", str(state), "--config", "gateway.yaml") == 1
        assert "extproc up" in capsys.readouterr().err
        path = socket_path(state)
        path.parent.mkdir(parents=True)
        one = valkeys.Server(path.parent, options=("--unixsocket", str(path)))
        try:
            one.launch()
            valkeys.wait_for(path.exists)
            assert call("show", "--state", str(state), "--config", "gateway.yaml") == 0
        finally:
            one.stop()
    assert "nothing is counted" in capsys.readouterr().err


def test_without_limits_there_is_nothing_to_show(capsys: pytest.CaptureFixture[str]) -> None:
    """And it is said where they would be written."""
    Path("gateway.yaml").write_text("version: 1\nproviders:\n  main: {api: openai}\n")
    assert call("show") == 1
    assert "quotas: is not in this configuration" in capsys.readouterr().err


def test_every_option_has_help() -> None:
    """Of all actions."""
    parser = argparse.ArgumentParser()
    limits.add_arguments(parser)
    (actions,) = (action for action in parser._actions if action.dest == "action")
    assert isinstance(actions.choices, dict)
    assert set(actions.choices) == {"show", "grant", "reset", "simulate"}
    for choice in actions.choices.values():
        assert all(option.help for option in choice._actions)
