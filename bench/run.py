"""`make bench`: plain Envoy, a no-op grpc.aio processor and the gateway, paired and interleaved. `--quick`: under a minute."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from measure import Case, Load, held_streams, row, warm_up
from report import markdown
from rig import PROJECT, running

OUT = Path(__file__).resolve().parent / "last.json"
CASES = (
    Case("2 KB", 2048, repetitions=9),
    Case("64 KB", 65536, repetitions=5),
    Case("1 MB", 1 << 20, seconds=1.0, repetitions=5),
    Case("100 chunks", 2048, bench="stream=100,5", seconds=1.2, repetitions=5),
)
QUICK = {"2 KB": (3, 0.5), "64 KB": (1, 0.4), "1 MB": (1, 0.5), "100 chunks": (1, 0.6)}
HELD = 200


def tell(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter repetitions")
    parser.add_argument("--case", action="append", help="only this case (2 KB, 64 KB, 1 MB, 100 chunks)")
    args = parser.parse_args()
    cases = [case for case in CASES if not args.case or case.name in args.case]
    if args.quick:
        cases = [replace(case, repetitions=QUICK[case.name][0], seconds=QUICK[case.name][1]) for case in cases]
    began = time.monotonic()
    load = Load()
    result = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{os.cpu_count()} CPUs, {platform.machine()}, Python {platform.python_version()}",
        "quick": args.quick,
        "rows": [],
    }
    try:
        with tempfile.TemporaryDirectory(prefix="extproc-bench-") as folder:
            with running(Path(folder) / "one") as gateway:
                warm_up(gateway, load)
                for case in cases:
                    result["rows"] += [row(gateway, load, case, number, tell) for number in case.connections]
                result["held"] = {"count": HELD, "bytes": held_streams(gateway, load, HELD)}
            if not args.quick and not args.case:
                with running(Path(folder) / "two", workers=2, concurrency=2) as gateway:
                    warm_up(gateway, load)
                    two = replace(CASES[0], name="2 KB, 2 workers", repetitions=5)
                    result["rows"].append(row(gateway, load, two, 16, tell))
    finally:
        load.stop()
    result["seconds"] = round(time.monotonic() - began)
    text = markdown(result)
    OUT.write_text(json.dumps({**result, "table": text}, indent=1))
    print(text)
    tell(f"{result['seconds']} s; every run is in {OUT.relative_to(PROJECT)}")


if __name__ == "__main__":
    main()
