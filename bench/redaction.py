"""`make bench-redaction`: what is found and what it takes, beside Presidio's default engine, on one core.

`--quick`: a tenth of the work. `--only quality|speed`. `--write-docs`: put the tables into docs/redaction.md.
Reads the development sets from REDACTION_DIR (default ../shared/redaction).
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import re
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import uvloop

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
OUT = Path(__file__).resolve().parent / "redaction.json"
PAGE = OUT.parent.parent / "docs" / "redaction.md"


def tell(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


def on_one_core() -> None:
    """Start again where libraries were not told to use one thread: they read it when they are loaded."""
    if any(os.environ.get(name) != "1" for name in THREADS):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **dict.fromkeys(THREADS, "1")})
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def measure(args: argparse.Namespace) -> dict:
    """Everything that was asked for."""
    import redaction_loop
    import redaction_quality
    import redaction_speed
    from redaction_data import FOLDER, Prompts, clean, gold
    from redaction_engines import Ours, Presidio

    if not FOLDER.is_dir():
        raise SystemExit(f"{FOLDER} is not there: set REDACTION_DIR to the folder of the development sets")
    tell("compiling, loading models")
    ours, presidio = Ours(), Presidio()
    share = 0.1 if args.quick else 1.0
    result: dict = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{os.cpu_count()} CPUs, {platform.machine()}, Python {platform.python_version()}",
        "load": round(os.getloadavg()[0], 1),
        "quick": args.quick,
    }
    if args.only in {None, "speed"}:
        prompts = Prompts(clean(2_000_000), [row.text for row in gold("synth")])
        # each of its profiles has warmed up on texts that are not measured
        for text in prompts.many(4000, 10, 0.15):
            for profile in ("patterns", "fast", "strict"):
                ours.scanner(profile).scan(text)
        result["speed"] = redaction_speed.new_texts(ours, presidio, prompts, tell, share)
        result["chats"] = uvloop.run(redaction_speed.chats(ours, prompts, tell, share))
        result["known"] = redaction_speed.known(ours, prompts, share)
        result["loop"] = redaction_loop.lateness(ours, prompts, tell, 3.0 if args.quick else 15.0)
        result["hostile"] = redaction_speed.hostile(ours, presidio, tell, quick=args.quick)
    if args.only in {None, "quality"}:
        result["secrets"] = redaction_quality.vendor_formats(tell, instances=3 if args.quick else 10)
        result["quality"] = redaction_quality.sets(ours, presidio, tell, every=10 if args.quick else 1)
        result["false_alarms"] = redaction_quality.false_alarms(ours, presidio, tell, share=share)
    result["load_after"] = round(os.getloadavg()[0], 1)
    return result


def write_page(parts: dict[str, str], note: str) -> None:
    """Put each table between its two marks."""
    text = PAGE.read_text()
    for part, tables in parts.items():
        mark = re.compile(rf"(<!-- measured: {part} -->\n).*?(<!-- end -->)", re.DOTALL)
        text, found = mark.subn(lambda match, tables=tables: f"{match[1]}\n{note}\n\n{tables}\n\n{match[2]}", text)
        if not found:
            raise SystemExit(f"{PAGE.name} has no place for {part}")
    PAGE.write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the work")
    parser.add_argument("--only", choices=("quality", "speed"), help="one half only")
    parser.add_argument("--write-docs", action="store_true", help="put the tables into docs/redaction.md")
    parser.add_argument("--again", action="store_true", help="measure nothing: make the tables of the last run again")
    args = parser.parse_args()
    on_one_core()
    logging.disable(logging.WARNING)
    from redaction_report import markdown

    began = time.monotonic()
    if args.again:
        result = json.loads(OUT.read_text())
    else:
        result = measure(args)
        result["seconds"] = round(time.monotonic() - began)
        OUT.write_text(json.dumps(result, indent=1))
    parts = markdown(result, [part for part in ("quality", "speed") if part in result])
    note = (
        f"{result['at']}, {result['machine']}, one core, load {result['load']} before and {result['load_after']} after"
        f"{', quick' if result['quick'] else ''}."
    )
    for part, tables in parts.items():
        print(f"## {part}\n\n{note}\n\n{tables}\n")
    if args.write_docs:
        write_page(parts, note)
    tell(f"{result['seconds']} s; all figures are in {OUT.name}")


if __name__ == "__main__":
    main()
