"""The simulator as a process of its own."""

from __future__ import annotations

import json
import os
import select
import signal
import ssl
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from extproc.sim.command import main

CASES = Path(os.environ.get("RECORDED_DIR", "../shared/recorded"))


def test_serves_until_told_to_stop(tmp_path: Path) -> None:
    """It makes its CA, says where it listens, answers over TLS with the key from the environment, and ends with 0."""
    key = "key-" + os.urandom(6).hex()
    options = [
        "--port",
        "0",
        "--control-port",
        "0",
        "--ca",
        str(tmp_path / "ca"),
        "--openai-key-env",
        "SIM_KEY",
        "--json",
    ]
    command = [sys.executable, "-m", "extproc.sim", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "SIM_KEY": key}) as process:
        try:
            assert process.stdout is not None
            assert select.select([process.stdout], [], [], 20)[0]
            where = json.loads(process.stdout.readline())
            trust = ssl.create_default_context(cafile=where["ca"])
            with httpx2.Client(verify=trust, trust_env=False, http2=True) as client:
                url = f"https://localhost:{where['port']}/v1/models"
                good = client.get(url, headers={"authorization": f"Bearer {key}"})
                bad = client.get(url, headers={"authorization": "Bearer other"})
                faults = {"authorization": f"Bearer {key}", "x-sim-reset-after": "10"}
                with pytest.raises(httpx2.RemoteProtocolError):
                    client.get(url, headers=faults)
            with httpx2.Client(verify=trust, trust_env=False) as client:
                # the RST arrives, but a blocking ssl socket may report it as an end
                with pytest.raises((httpx2.ReadError, httpx2.RemoteProtocolError)):
                    client.get(url, headers=faults)
                assert client.get(url, headers={**faults, "x-sim-reset-after": "99999"}).http_version == "HTTP/1.1"
                seen = client.get(f"http://127.0.0.1:{where['control_port']}/requests").json()
            process.send_signal(signal.SIGTERM)
            code = process.wait(10)
        finally:
            process.kill()

    assert (good.status_code, bad.status_code) == (200, 401)
    assert good.http_version == "HTTP/2"
    assert seen["total"] == 5
    assert code == 0


def test_reasons(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be used is exit code 2 and one line that says why."""
    monkeypatch.delenv("SIM_NO_KEY", raising=False)
    (tmp_path / "ca.pem").write_text("rubbish")

    assert main(["--plain", "--openai-key-env", "SIM_NO_KEY"]) == 2
    assert main(["--plain", "--address", "192.0.2.1"]) == 2
    assert main(["--ca", str(tmp_path)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert "SIM_NO_KEY is not set" in lines[0]
    assert "loopback" in lines[1]


@pytest.mark.recorded
@pytest.mark.skipif(not CASES.is_dir(), reason="no recorded bodies here")
def test_recorded_cases_load() -> None:
    """Every recorded response is served as the bytes it is."""
    from extproc.sim.cases import Cases

    cases, found = Cases(CASES), 0
    for meta in CASES.glob("*/*/meta.json"):
        described = json.loads(meta.read_bytes())
        if not described["files"]["response"]:
            continue
        found += 1
        answer = cases.get(f"{meta.parent.parent.name}/{meta.parent.name}")
        assert answer.body == (meta.parent / described["files"]["response"]).read_bytes()
        assert answer.status == (described["status"] or 200)

    assert found > 100
