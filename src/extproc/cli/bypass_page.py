"""The bypass report as one HTML page: no script, nothing from elsewhere, all text escaped, light and dark.

Rows stand in a fixed order: the least adoption first, then the most attempts first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Final

from extproc.adapters.bypass import NOT_HERE, Attempt, Report

MAX_ROWS: Final = 2000  # of attempts; a page of more nobody reads, and `--json` has all

_STYLE: Final = """
:root { color-scheme: light dark; --line: #8884; --bar: #2a7f4f; --rest: #c0392b55; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 78rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
p.note { opacity: .75; margin: .2rem 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .3rem .7rem; border-bottom: 1px solid var(--line); vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.t { white-space: nowrap; } td.name { overflow-wrap: anywhere; min-width: 14rem; }
td.name small { display: block; opacity: .7; }
.bar { display: block; width: 10rem; height: .6rem; margin-top: .45rem; background: var(--rest); }
.bar i { display: block; height: 100%; background: var(--bar); }
"""


def page(report: Report, made: datetime) -> str:
    """Make the page. `made`: when, for its head."""
    span = "" if report.since is None else f" since {_time(report.since)}"
    note = (
        f"{report.blocked:,} blocked attempts and {report.governed:,} governed calls{span}. Made {_time(made)}. "
        "Adoption is governed calls / (governed calls + blocked attempts)."
    )
    bad = f"<p class=note>{report.bad:,} of {report.lines:,} lines could not be read.</p>" if report.bad else ""
    return (
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>Attempts to go around the gateway</title><style>{_STYLE}</style></head><body>\n"
        f"<h1>Attempts to go around the gateway</h1>\n<p class=note>{escape(note)}</p>{bad}\n"
        f"<h2>Adoption by team</h2>\n{_adoption(report)}\n<h2>Attempts</h2>\n{_attempts(report)}\n<p class=note>{escape(NOT_HERE)}</p></body></html>\n"
    )


def _adoption(report: Report) -> str:
    if not report.adoption:
        return "<p>No call and no attempt.</p>"
    rows = (
        f"<td>{escape(a.team)}</td><td class=n>{a.governed:,}</td><td class=n>{a.blocked:,}</td>"
        f'<td class=n>{a.share:.1%}</td><td><span class=bar><i style="width:{a.share * 100:.1f}%"></i></span></td>'
        for a in report.adoption
    )
    return _table((("Team", ""), ("Governed", "n"), ("Blocked", "n"), ("Adoption", "n"), ("", "")), rows)


def _attempts(report: Report) -> str:
    if not report.attempts:
        return "<p>Nobody tried to go around.</p>"
    head = (("Count", "n"), ("Source", ""), ("Team", ""), ("Target", ""), ("Road", ""), ("Protocol", ""))
    shown = report.attempts[:MAX_ROWS]
    more = len(report.attempts) - len(shown)
    rest = f"<p class=note>{more:,} more rows are not shown.</p>" if more else ""
    return _table((*head, ("First", ""), ("Last", "")), (_row(attempt) for attempt in shown)) + rest


def _row(attempt: Attempt) -> str:
    beside = [
        text for text in (*attempt.destinations, *(f"JA4 {ja4}" for ja4 in attempt.ja4)) if text != attempt.target
    ]
    small = f"<small>{escape(', '.join(beside))}</small>" if beside else ""
    return (
        f"<td class=n>{attempt.count:,}</td><td>{escape(attempt.source)}</td><td>{escape(attempt.team)}</td>"
        f"<td class=name>{escape(attempt.target)}{small}</td><td>{escape(attempt.road)}</td>"
        f"<td>{escape(attempt.protocol)}</td>"
        f"<td class=t>{_time(attempt.first)}</td><td class=t>{_time(attempt.last)}</td>"
    )


def _table(head: Sequence[tuple[str, str]], rows: Iterable[str]) -> str:
    cells = "".join(f'<th class="{kind}">{escape(text)}</th>' for text, kind in head)
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    return f"<div class=wide><table><thead><tr>{cells}</tr></thead><tbody>\n{body}\n</tbody></table></div>"


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
