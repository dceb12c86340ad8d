from __future__ import annotations

import json
import os
import re
from decimal import Decimal
from pathlib import Path

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from adapters.sample_records import STREAMED, record
from extproc.adapters.logs import PIPE_ATOMIC, LineWriter
from extproc.adapters.records import RecordLog, as_fields
from extproc.exchange.record import QuotaSummary, Record, RedactionSummary

LIMITED = QuotaSummary((), "team_month", ("soft",), 12, stopped=True)
FOUND = RedactionSummary(
    profile="standard",
    mode="enforce",
    entities=(("EMAIL_ADDRESS", "pseudonym", 3), ("US_SSN", "block", 1), ("EMAIL_ADDRESS", "pseudonym", 1)),
    seconds=0.0004126,
    scanned=2,
    blocked=("US_SSN",),
)


def write(path: Path, form: str, *records: Record) -> str:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    writer = LineWriter(fd)
    log = RecordLog(writer, form)
    for one in records:
        log.write(one)
    writer.close()
    os.close(fd)
    return path.read_text()


def test_one_json_line_per_record(tmp_path: Path) -> None:
    """Every field under its name; the time is that of the end; money is exact text; what is not known is absent."""
    (line,) = write(tmp_path / "log", "json", STREAMED).splitlines()

    fields = json.loads(line)

    assert fields["event"] == "exchange"
    assert fields["timestamp"] == "2001-09-09T01:46:41.234568Z"
    assert fields["cost_usd"] == "0.000012"
    assert (fields["tokens_in"], fields["tokens_cached"], fields["tokens_cache_write"]) == (1200, 1000, 0)
    assert "tokens_reasoning" not in fields
    assert "error" not in fields
    assert (fields["duration_ms"], fields["first_byte_ms"], fields["policy_ms"]) == (1234.568, 400.0, 0.3)
    assert fields["labels"] == {"feature": "search"}


def test_every_field_of_the_record_is_on_the_line() -> None:
    """A field that is added to the record is not forgotten here."""
    renamed = {
        *("started_at", "duration", "policy_seconds", "time_to_first_byte", "usage", "cost"),
    }
    everything = record(error="x", error_detail="x", cost_reason="x", redaction=FOUND, quota=LIMITED, organisation="o")

    missing = {field.name for field in msgspec.structs.fields(Record)} - set(as_fields(everything)) - renamed

    assert missing == set()


def test_what_limits_did_is_told_in_short() -> None:
    """Names of rules; nothing where they had nothing to say."""
    assert as_fields(record(quota=LIMITED))["quota"] == {
        "refused_by": "team_month",
        "estimated_input": 12,
        "stopped": True,
        "over": ("soft",),
    }
    assert "quota" not in as_fields(record(quota=QuotaSummary()))


def test_tiny_costs_have_no_exponent() -> None:
    """A spreadsheet or a `sum` in SQL reads the number as it is."""
    assert as_fields(record(cost=Decimal("1E-7")))["cost_usd"] == "0.0000001"


hostile_texts = st.text(st.characters(codec=None), max_size=300) | st.builds(
    lambda char, count: char * count, st.characters(codec=None), st.integers(0, 5000)
)


@given(hostile_texts)
def test_a_callers_text_cannot_fake_or_tear_a_line(text: str) -> None:
    """Whatever a caller sends as a model or user: one line of JSON, within a pipe's atomic write; no control character."""
    fd = os.memfd_create("log")
    path = Path(f"/proc/self/fd/{fd}")
    changes = dict.fromkeys(("requested_model", "model", "response_model", "error_detail", "tenant", "user"), text)
    hostile = record(**changes)

    line, shown = write(path, "json", hostile), write(path, "console", hostile)

    os.close(fd)
    assert line.count("\n") == shown.count("\n") == 1
    assert json.loads(line)["outcome"] == "ok"
    assert len(line.encode()) <= PIPE_ATOMIC
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", shown)


def test_long_but_honest_names_are_kept() -> None:
    """A model's resource name of 150 characters is not cut."""
    name = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/" + "a" * 80

    assert as_fields(record(model=name))["model"] == name


def test_the_line_has_counts_of_what_was_found() -> None:
    """Kinds, operators and numbers; what is zero is absent."""
    assert as_fields(record(redaction=FOUND))["redaction"] == {
        "profile": "standard",
        "mode": "enforce",
        "scan_ms": 0.413,
        "found": 5,
        "entities": {"EMAIL_ADDRESS.pseudonym": 4, "US_SSN.block": 1},
        "scanned": 2,
        "blocked": ("US_SSN",),
    }
    assert as_fields(record(redaction=RedactionSummary("p", "shadow", failed="budget")))["redaction"] == {
        "profile": "p",
        "mode": "shadow",
        "scan_ms": 0.0,
        "failed": "budget",
    }
    assert "redaction" not in as_fields(STREAMED)


def test_the_longest_of_everything_still_fits_a_pipe(tmp_path: Path) -> None:
    """Where a line would be torn, the kinds go first: profile, sum and failure stay."""
    kinds = tuple("K" * 31 + chr(65 + number) for number in range(20))
    found = RedactionSummary(
        profile="p" * 63,
        mode="enforce",
        entities=tuple((kind, "pseudonym", 99_999) for kind in kinds),
        seconds=12.3456789,
        cached=99_999,
        scanned=99_999,
        restored=99_999,
        failed="budget",
        blocked=kinds,
    )
    callers = dict.fromkeys(("requested_model", "model", "response_model", "error_detail", "tenant", "user"), "é" * 400)
    labels = dict.fromkeys(("feature", "user", "tenant", "prompt", "data_class"), "a" * 256)

    short, long = write(
        tmp_path / "log", "json", record(redaction=found), record(redaction=found, labels=labels, **callers)
    ).splitlines()

    assert len(json.loads(short)["redaction"]["entities"]) == 12
    assert len(long.encode()) < PIPE_ATOMIC
    shown = json.loads(long)["redaction"]
    assert (shown["found"], shown["failed"]) == (20 * 99_999, "budget")
    assert "entities" not in shown
