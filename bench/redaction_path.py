"""What redaction adds to a call through real Envoy: time to the first chunk of a stream, and CPU of the worker.

One gateway, two callers: a team whose calls nobody looks at, and one with the standard profile. Their calls alternate, so
that both see the same machine. `python bench/redaction_path.py [--quick]` prints a table and a JSON line.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from redaction_data import Prompts, clean, gold
from rig import Gateway, cpu_seconds

CONFIG = """
redaction:
  default: none
  rules: [{team: demo, profile: standard}]
  profiles: {standard: {}}
"""
EXTRA = CONFIG + "log: {level: info}\n"


def make_key(gateway: Gateway) -> str:
    """A key of the team that nobody looks at; its access is in the configuration."""
    command = [sys.executable, "-m", "extproc", "keys", "create", "--team", "plain", "--app", "bench"]
    command += ["--config", str(gateway.config), "--state", str(gateway.state), "--json"]
    out = subprocess.run(command, capture_output=True, check=True, cwd=gateway.folder)
    return str(json.loads(out.stdout)["key"])


def call(connection: http.client.HTTPConnection, key: str, body: bytes) -> float:
    """One streamed call; ms until the first bytes of the answer's body."""
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json", "x-bench": "stream=3,1"}
    began = time.perf_counter_ns()
    connection.request("POST", "/openai/v1/chat/completions", body, headers)
    answer = connection.getresponse()
    first = answer.read1(65536)
    took = (time.perf_counter_ns() - began) / 1e6
    if answer.status != 200 or not first:
        raise RuntimeError(f"{answer.status}: {first[:300]!r}")
    answer.read()
    return took


def body(*texts: str) -> bytes:
    """A streamed chat: user and assistant take turns."""
    roles = ("user", "assistant")
    messages = [{"role": roles[number % 2], "content": text} for number, text in enumerate(texts)]
    return json.dumps({"model": "gpt-4o-mini", "stream": True, "messages": messages}).encode()


def measure(gateway: Gateway, keys: dict[str, str], bodies: list[bytes]) -> dict[str, dict[str, float]]:
    """p50 and p99 of the time to the first chunk and CPU of the worker per call, by caller; each call is made once."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.ports["base_url"], timeout=30)
    (worker,) = gateway.pids["ours"]
    times: dict[str, list[float]] = {name: [] for name in keys}
    spent: dict[str, float] = dict.fromkeys(keys, 0.0)
    for data in bodies:
        order = list(keys)
        random.shuffle(order)
        for name in order:
            before = cpu_seconds(worker)
            times[name].append(call(connection, keys[name], data))
            spent[name] += cpu_seconds(worker) - before
    connection.close()
    return {
        name: {
            "p50": statistics.median(values),
            "p99": sorted(values)[int(len(values) * 0.99)],
            "cpu": spent[name] * 1e3 / len(values),
        }
        for name, values in times.items()
    }


def main() -> None:
    """Measure new prompts of 2 KB, new ones of 8 KB, and the next turn of a chat."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a fifth of the calls")
    count = 60 if parser.parse_args().quick else 300
    os.environ.setdefault("EXTPROC_DETECTORS", str(Path(__file__).resolve().parents[1] / "state" / "detectors"))
    prompts = Prompts(clean(1_000_000), [row.text for row in gold("synth")])
    history = prompts.many(900, 20, 0.1)
    cases = {
        "new text, 2 KB": [body(text) for text in prompts.many(2000, count, 0.15)],
        "new text, 8 KB": [body(text) for text in prompts.many(8000, count // 2, 0.15)],
        "a chat's next turn, 300 new": [body(*history, text) for text in prompts.many(300, count, 0.3)],
    }
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="extproc-bench-") as folder:
        gateway = Gateway(Path(folder) / "one", extra=EXTRA)
        try:
            gateway.start()
            gateway.config.write_text(
                gateway.config.read_text().replace("- {team: demo}", "- {team: demo}\n- {team: plain}")
            )
            keys = {"without": make_key(gateway), "with": gateway.key}
            time.sleep(4)  # the new rule and the new key are live, detectors included
            for bodies in cases.values():
                measure(gateway, keys, bodies[:5])
            for name, bodies in cases.items():
                result[name] = measure(gateway, keys, bodies)
        finally:
            gateway.stop()
    print("| calls | time to first chunk without, p50 / p99 ms | with | added p50 | CPU added, ms a call |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, one in result.items():
        bare, full = one["without"], one["with"]
        print(
            f"| {name} | {bare['p50']:.2f} / {bare['p99']:.2f} | {full['p50']:.2f} / {full['p99']:.2f}"
            f" | {full['p50'] - bare['p50']:.2f} | {full['cpu'] - bare['cpu']:.2f} |"
        )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
