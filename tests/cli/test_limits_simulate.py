"""`extproc limits simulate`: what would have happened to traffic of the past, by the books of a gateway."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from extproc.cli.limits_simulate import LIMITED
from extproc.cli.main import main

HEAD = "version: 1\nproviders:\n  openai: {api: openai}\naliases:\n  fast: {provider: openai, model: gpt-4o-mini}\n"
DAY = 1_795_219_200  # 2026-11-21T00:00:00Z


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("EXTPROC_CONFIG", "EXTPROC_STATE"):
        monkeypatch.delenv(name, raising=False)


def configure(*rules: str, more: str = "") -> None:
    written = "".join(f"  - {{{rule}}}\n" for rule in rules)
    Path("gateway.yaml").write_text(f"{HEAD}quotas:\n  organisation: acme\n{more}  rules:\n{written}")


def simulate(
    capsys: pytest.CaptureFixture[str], *calls: dict[str, object], code: int | None = None
) -> dict[str, object]:
    Path("traffic").write_text("".join(json.dumps(call) + "\n" for call in calls))
    done = main(["limits", "simulate", "traffic", "--json"])
    document: dict[str, object] = json.loads(capsys.readouterr().out)
    assert done == (LIMITED if document["refused"] or document["over_soft"] else 0)
    if code is not None:
        assert done == code
    return document


def limit(document: dict[str, object], rule: str, value: str) -> dict[str, object]:
    limits = document["limits"]
    assert isinstance(limits, list)
    (found,) = (one for one in limits if (one["rule"], one["value"]) == (rule, value))
    return dict(found)


def test_who_when_and_how_often(capsys: pytest.CaptureFixture[str]) -> None:
    """Ten calls a minute are let through, the next window begins anew; other teams are not touched."""
    configure("name: rate, kind: requests, window: minute, limit: 10, scope: [team]")
    calls = [{"time": DAY + second, "team": "a"} for second in range(15)]
    calls += [{"time": DAY + 60 + second, "team": "a"} for second in range(5)]
    calls += [{"time": DAY + 3, "team": "b"}]
    document = simulate(capsys, *calls, code=LIMITED)
    assert (document["calls"], document["refused"]) == (21, 5)
    found = limit(document, "rate", "a")
    assert (found["calls"], found["limited"], found["highest"], found["used_in_all"]) == (20, 5, 10, 15)
    assert found["first_limited_at"] == "2026-11-21T00:00:10.000Z"
    assert limit(document, "rate", "b")["limited"] == 0


def test_what_is_reserved_counts_while_a_call_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """The cap of a running call holds room that is free again when it has used less."""
    configure("name: day, kind: output_tokens, window: day, limit: 1000")
    big = {"time": DAY, "input_tokens": 1, "output_tokens": 100, "max_output": 800, "duration": 10}
    during = {**big, "time": DAY + 5}
    after = {**big, "time": DAY + 10}
    document = simulate(capsys, after, during, big)
    found = limit(document, "day", "acme")
    assert (found["calls"], found["limited"], found["first_limited_at"]) == (3, 1, "2026-11-21T00:00:05.000Z")
    assert (found["used_in_all"], found["highest"]) == (200, 900)


def test_without_a_cap_the_configured_default_is_reserved(capsys: pytest.CaptureFixture[str]) -> None:
    """Of the model's first pattern, the name of an alias resolved."""
    configure(
        "name: day, kind: output_tokens, window: day, limit: 500, scope: [model]",
        more='  output_tokens: {"gpt-4o-mini": 400, "*": 600}\n',
    )
    call = {"time": DAY, "input_tokens": 10, "output_tokens": 20}
    document = simulate(capsys, {**call, "model": "fast"}, {**call, "model": "gpt-4o"})
    assert (limit(document, "day", "gpt-4o-mini")["limited"], limit(document, "day", "gpt-4o-mini")["highest"]) == (
        0,
        400,
    )
    assert limit(document, "day", "gpt-4o")["limited"] == 1


def test_calls_in_flight_are_freed_at_their_end(capsys: pytest.CaptureFixture[str]) -> None:
    """The slot of a call is there for the one that begins when it ends."""
    configure("name: flights, kind: requests, window: concurrent, limit: 2")
    calls = [{"time": DAY + start, "duration": 10} for start in (0, 1, 2, 10, 11)]
    found = limit(simulate(capsys, *calls), "flights", "acme")
    assert (found["limited"], found["highest"], found["first_limited_at"]) == (1, 2, "2026-11-21T00:00:02.000Z")


def test_money_is_what_the_log_says_or_the_price_list(capsys: pytest.CaptureFixture[str]) -> None:
    """Reserved is the worst case by price; a price nobody knows is refused where a budget applies, as configured."""
    rule = "name: budget, kind: money, window: day, limit: 1, scope: [team]"
    configure(rule)
    with Path("gateway.yaml").open("a") as file:
        file.write("pricing: {overrides: [{provider: openai, model: house, input: 2, output: 10}]}\n")
    known = {
        "time": DAY,
        "team": "a",
        "model": "house",
        "input_tokens": 100_000,
        "output_tokens": 0,
        "max_output": 10_000,
    }
    for provider in ({"provider": "openai"}, {}):
        calls = [{**known, **provider, "time": DAY + second} for second in range(5)]
        document = simulate(capsys, *calls, {**known, "time": DAY + 2, "cost": "0.9"}, code=LIMITED)
        found = limit(document, "budget", "a")
        # 0.2 + 0.2 + 0.2 used, then 0.3 reserved and 0.9 used; the last two have no room
        assert (found["highest"], found["used_in_all"]) == ("1.500000000", "1.500000000")
        assert (found["limited"], found["first_limited_at"]) == (2, "2026-11-21T00:00:03.000Z")
    unknown = {**known, "team": "b", "model": "nobody-sells-this"}
    document = simulate(capsys, unknown, code=LIMITED)
    assert (document["refused"], document["price_unknown"]) == (1, 1)
    document = simulate(capsys, {**unknown, "cost": "0.4"}, code=0)
    assert limit(document, "budget", "b")["used_in_all"] == "0.400000000"
    configure(rule, more="  unknown_price: allow\n")
    assert simulate(capsys, unknown, code=0)["price_unknown"] == 0


def test_soft_limits_refuse_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """They are told all the same."""
    configure(
        "name: soft, kind: requests, window: hour, limit: 2, mode: soft",
        "name: hard, kind: requests, window: hour, limit: 4",
    )
    document = simulate(capsys, *({"time": DAY + second} for second in range(5)))
    assert (document["refused"], document["over_soft"]) == (1, 2)
    assert limit(document, "soft", "acme")["highest"] == 4
    assert limit(document, "hard", "acme")["limited"] == 1


def test_the_result_depends_on_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither on the order of the lines, but for calls of one moment, nor on the day on which it runs."""
    rng = random.Random(5)
    configure(
        "name: a, kind: tokens, window: bucket, limit: 3000, period: 60s, scope: [team]",
        "name: b, kind: requests, window: day, limit: 90",
    )
    calls: list[dict[str, object]] = [
        {
            "time": DAY + number * 7.3,
            "team": rng.choice("xyz"),
            "input_tokens": rng.randrange(900),
            "duration": rng.random() * 30,
        }
        for number in range(200)
    ]
    first = simulate(capsys, *calls)
    rng.shuffle(calls)
    assert simulate(capsys, *calls) == first
    assert first["refused"]


def test_the_table_and_what_is_said_beside_it(capsys: pytest.CaptureFixture[str]) -> None:
    """The limited first; bad lines by their numbers; standard output is the table alone."""
    configure("name: rate, kind: requests, window: minute, limit: 2, scope: [team]")
    lines = [json.dumps({"time": DAY + n, "team": team}) for n in range(3) for team in ("a", "b")]
    Path("traffic").write_text("\n".join([*lines[:3], "oops", *lines[3:5]]))
    assert main(["limits", "simulate", "traffic"]) == LIMITED
    said = capsys.readouterr()
    head, first, second = said.out.splitlines()
    assert head.startswith("RULE")
    assert first.split()[:6] == ["rate", "a", "3", "1", "2026-11-21", "00:00:02Z"]
    assert second.split()[:5] == ["rate", "b", "2", "0", "-"]
    assert "5 calls from 2026-11-21 00:00:00Z" in said.err
    assert "1 refused" in said.err
    assert "line 4: is not JSON" in said.err


def test_standard_input_and_files_of_no_use(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file without a call is an error that says what the first bad line has."""
    configure("name: rate, kind: requests, window: minute, limit: 2")
    Path("empty").write_text("nonsense\n")
    assert main(["limits", "simulate", "empty"]) == 1
    assert "line 1 is not JSON" in capsys.readouterr().err
    assert main(["limits", "simulate", "absent"]) == 1
    assert "cannot be read" in capsys.readouterr().err
    Path("gateway.yaml").write_text(HEAD)
    assert main(["limits", "simulate", "empty"]) == 1
    assert "quotas" in capsys.readouterr().err
    configure("name: rate, kind: requests, window: minute, limit: 2")
    with Path("given").open("w+") as given:
        given.write(json.dumps({"time": DAY}))
        given.seek(0)
        monkeypatch.setattr("sys.stdin", given)
        assert main(["limits", "simulate", "-", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["calls"] == 1
