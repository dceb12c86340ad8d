"""From figures to tables, each figure beside the goal that was set for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from redaction_engines import FAST, PATTERNS, STRICT, TIERS, TITLES
from redaction_quality import FORMED, KINDS
from redaction_speed import PRESIDIO

REACHED, CPU_ONLY, MISSED = "reached", "reached in CPU time only", "not reached"
# (set, engine, kind) -> recall, precision
_STRUCTURED = {"EMAIL_ADDRESS": 0.99, "IP_ADDRESS": 0.99, "US_SSN": 0.99, "IBAN_CODE": 0.98, "CREDIT_CARD": 0.98}
_GOALS = {
    **{(name, PATTERNS, kind): (0.99, least) for name in ("synth", "chat") for kind, least in _STRUCTURED.items()},
    ("chat", PATTERNS, "PHONE_NUMBER"): (0.95, 0.85),
    ("chat", "regions", "PHONE_NUMBER"): (0.95, 0.85),
    ("synth", FAST, "PERSON"): (0.75, 0.80),
    ("chat", FAST, "PERSON"): (0.85, 0.86),
    ("synth", STRICT, "PERSON"): (0.83, 0.88),
    ("chat", STRICT, "PERSON"): (0.96, 0.91),
}
_NAMES = {
    "fast_places": "+ names: fast, LOCATION on",
    "strict_places": "+ names: strict, LOCATION on",
    "regions": "patterns, 10 phone regions",
}


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, figures to the right."""
    return "\n".join([_line(head), _line(["---", *["---:"] * (len(head) - 1)]), *map(_line, rows)])


def _title(engine: str) -> str:
    if engine.startswith("presidio"):
        threshold = engine.partition(" ")[2]
        return f"Presidio, {'threshold 0.4' if threshold == '0.4' else 'default threshold 0'}"
    return TITLES.get(engine) or _NAMES[engine]


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _rates(one: dict[str, int]) -> tuple[float, float]:
    return _share(one["recalled"], one["gold"]), _share(one["right"], one["found"])


def _verdict(wall: float, cpu: float, goal: float) -> str:
    return REACHED if wall <= goal else CPU_ONLY if cpu <= goal else MISSED


def quality(result: dict[str, Any]) -> str:
    """Recall and precision by kind, set and engine, and what was aimed at."""
    rows = []
    for name, engines in result["quality"].items():
        for kind in KINDS:
            if not engines[PATTERNS][kind]["gold"]:
                continue
            relevant = (
                (PATTERNS,)
                if kind in FORMED[:5]
                else (PATTERNS, "regions", STRICT)
                if kind == "PHONE_NUMBER"
                else (FAST, STRICT)
            )
            for engine in (*relevant, "presidio 0.4", "presidio 0.0"):
                recall, precision = _rates(engines[engine][kind])
                cells = [f"{kind}, {name} ({engines[engine][kind]['gold']})", _title(engine)]
                cells += [f"{recall:.3f}", f"{precision:.3f}", *_judged((name, engine, kind), recall, precision)]
                rows.append(cells)
    return table(["kind, set (spans)", "engine", "recall", "precision", "goal", ""], rows)


def _judged(key: tuple[str, str, str], recall: float, precision: float) -> tuple[str, str]:
    goal = _GOALS.get(key)
    if goal is None:
        return "", ""
    return f"{goal[0]:.2f} / {goal[1]:.2f}", REACHED if recall >= goal[0] and precision >= goal[1] else MISSED


def false_alarms(result: dict[str, Any]) -> str:
    """Findings in code and documents."""
    rows = []
    for engine, one in result["false_alarms"].items():
        per = 10_000 / one["characters"]
        names = sum(count for kind, count in one["kinds"].items() if kind in {"PERSON", "LOCATION"})
        formed = sum(one["kinds"].values()) - names
        most = ", ".join(f"{kind} {count * per:.2f}" for kind, count in list(one["kinds"].items())[:4])
        goal, verdict = "", ""
        if engine == PATTERNS:
            goal, verdict = "2 (patterns)", REACHED if formed * per <= 2 else MISSED
        elif engine in {FAST, STRICT}:
            goal, verdict = "8 (names)", REACHED if names * per <= 8 else MISSED
        cells = [f"{_title(engine)} ({one['characters'] // 1000}k characters)", f"{formed * per:.2f}"]
        rows.append([*cells, f"{names * per:.2f}", most, goal, verdict])
    return table(["engine", "with a form, per 10k characters", "names, per 10k", "most of all", "goal", ""], rows)


def secrets(result: dict[str, Any]) -> str:
    """Vendor key formats."""
    one = result["secrets"]
    whole = _share(one["formats_found"], one["formats"])
    hits = sum(one["hits"].values())
    rows = [
        ["vendor key formats that are always found", f"{one['formats_found']} of {one['formats']} ({whole:.1%})",
         "95 % of at least 80", REACHED if whole >= 0.95 and one["formats"] >= 80 else MISSED],
        ["keys found, three surroundings each", f"{one['instances_found']} of {one['instances']}", "", ""],
        [f"hits in {one['clean_characters']:,} characters of code and documents", str(hits), "10 in 770,000",
         REACHED if hits * 770_000 <= 10 * one["clean_characters"] else MISSED],
    ]  # fmt: skip
    return table(["secrets", "", "goal", ""], rows)


def new_texts(result: dict[str, Any]) -> str:
    """Texts that were not seen before."""
    goals = {(4000, False, PATTERNS): 0.35, (4000, True, PATTERNS): 0.8}
    rows = []
    for row in result["speed"]:
        for engine, one in row["engines"].items():
            title = "Presidio, threshold 0.4" if engine == PRESIDIO else TITLES[engine]
            cells = [f"{row['size']:,}, {'dense' if row['dense'] else 'clean'}", title, str(one["runs"])]
            cells += [f"{one['p50']:.2f} / {one['p99']:.2f}", f"{one['cpu_p50']:.2f} / {one['cpu_p99']:.2f}"]
            cells.append("" if engine == PRESIDIO else f"{row['presidio_times'][engine]:.0f}")
            goal = goals.get((row["size"], row["dense"], engine))
            cells += ["", ""] if goal is None else [f"p50 {goal}", _verdict(one["p50"], one["cpu_p50"], goal)]
            rows.append(cells)
    head = [
        "characters",
        "engine",
        "texts",
        "ms p50 / p99",
        "CPU ms p50 / p99",
        "times faster than Presidio",
        "goal",
        "",
    ]
    return table(head, [*rows, *_names_alone(result)])


def _names_alone(result: dict[str, Any]) -> Iterator[list[str]]:
    """What the small model adds, for 1,000 characters."""
    for row in result["speed"]:
        if row["size"] < 1000:
            continue
        with_names, without = row["engines"][FAST], row["engines"][PATTERNS]
        wall, cpu = ((with_names[name] - without[name]) * 1000 / row["size"] for name in ("p50", "cpu_p50"))
        where = f"{row['size']:,}, {'dense' if row['dense'] else 'clean'}"
        verdict = _verdict(wall, cpu, 0.45)
        yield [where, "names: fast alone, per 1k", "", f"{wall:.2f}", f"{cpu:.2f}", "", "p50 0.45", verdict]


def chats(result: dict[str, Any]) -> str:
    """The turns of a chat."""
    rows = []
    for name, turns in result["chats"].items():
        tier, _, cache = name.partition(", ")
        cells = [f"{TITLES[tier]}, {cache}"]
        cells += [f"{turns[turn]['p50']:.2f}" for turn in ("1", "10", "20")]
        later = turns["2-20"]
        cells += [f"{later['p50']:.2f} / {later['p99']:.2f}", f"{later['cpu_p50']:.2f}"]
        aimed = cache == "cached" and tier != STRICT
        cells += ["p50 0.6", _verdict(later["p50"], later["cpu_p50"], 0.6)] if aimed else ["", ""]
        rows.append(cells)
    return table(
        [
            "20-turn chat, ms a request",
            "turn 1",
            "turn 10",
            "turn 20",
            "turns 2 to 20 p50 / p99",
            "CPU p50",
            "goal",
            "",
        ],
        rows,
    )


def known(result: dict[str, Any]) -> str:
    """A known text."""
    rows = []
    for name, text in (("cache", "look-up of 4,000 characters"), ("effect", "the same with everything around it")):
        one = result["known"][name]
        cells = [text, f"{one['p50']:.0f} / {one['p99']:.0f}", f"{one['cpu_p50']:.0f}"]
        rows.append([*cells, "p50 50", _verdict(one["p50"], one["cpu_p50"], 50)])
    return table(["known text, µs", "p50 / p99", "CPU p50", "goal", ""], rows)


def hostile(result: dict[str, Any]) -> str:
    """Hostile texts."""
    rows = []
    for row in result["hostile"]:
        cells = [row["text"], *(f"{row[tier]['wall']:.1f}" for tier in TIERS)]
        cells.append(f"{row[PRESIDIO]['wall']:.0f}" if PRESIDIO in row else "")
        rows.append([*cells, "100", _verdict(row[FAST]["wall"], row[FAST]["cpu"], 100)])
    head = ["16,000 characters, ms", *(TITLES[tier] for tier in TIERS), "Presidio", "goal (with fast names)", ""]
    return table(head, rows)


def loop(result: dict[str, Any]) -> str:
    """How late the event loop is."""
    rows = []
    for row in result["loop"]:
        title = "nothing to do" if row["profile"] == "idle" else TITLES[row["profile"]]
        cells = [f"{title}, {row['cores']} core{'s' if row['cores'] > 1 else ''}", str(row["rate"])]
        cells += [f"{row['late_p50']:.2f} / {row['late_p99']:.2f} / {row['late_max']:.1f}"]
        cells += [f"{row['call_p50']:.1f} / {row['call_p99']:.1f}"]
        goal = 5 if row["profile"] == STRICT else 2
        late = row["late_p99"]
        judged = [f"p99 {goal}", REACHED if late <= goal else MISSED]
        rows.append([*cells, *(["", ""] if row["profile"] == "idle" else judged)])
    head = ["event loop, 4,000 new characters a call", "calls/s", "late ms p50 / p99 / most", "a call, ms p50 / p99"]
    return table([*head, "goal", ""], rows)


def markdown(result: dict[str, Any], parts: Sequence[str]) -> dict[str, str]:
    """The tables by name, in order."""
    makers = {
        "quality": (quality, false_alarms, secrets),
        "speed": (new_texts, chats, known, hostile, loop),
    }
    keys = {"new_texts": "speed"}
    return {
        part: "\n\n".join(make(result) for make in makers[part] if keys.get(make.__name__, make.__name__) in result)
        for part in parts
        if part in makers
    }
