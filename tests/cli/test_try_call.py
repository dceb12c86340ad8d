"""`extproc try`, against the running gateway of the Envoy tests, and what it says where there is none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from envoy.conftest import shared_gateway  # noqa: F401  the fixture
from envoy.machine import Machine, free_ports
from extproc.cli.main import main
from extproc.cli.try_call import split_proxy
from extproc.errors import ConfigError


@pytest.fixture
def gateway(shared_gateway: Machine) -> Machine:  # noqa: F811  the fixture
    shared_gateway.forget()
    return shared_gateway


def words(gateway: Machine, *more: str) -> list[str]:
    return ["try", "--state", str(gateway.state), "--proxy", f"127.0.0.1:{gateway.ports['connect']}", *more]


@pytest.mark.envoy
@pytest.mark.parametrize(("api", "model"), [("openai", "fast"), ("anthropic", "smart")])
def test_a_call_is_told_step_by_step(
    gateway: Machine, capsys: pytest.CaptureFixture[str], api: str, model: str
) -> None:
    """Six steps, the text on standard output, the record at the end."""
    assert main(words(gateway, "--api", api, "--model", model)) == 0
    got = capsys.readouterr()
    assert got.out.strip()
    for step in "123456":
        assert f"{step}. " in got.err
    assert '"outcome": "ok"' in got.err
    assert gateway.key not in got.err


@pytest.mark.envoy
def test_json(gateway: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    """The same as one object."""
    assert main(words(gateway, "--json")) == 0
    out = capsys.readouterr().out
    told = json.loads(out[out.index("{") :])
    assert told["status"] == 200
    assert told["record"]["team"] == "demo"


@pytest.mark.envoy
def test_a_refusal_does_not_claim_that_the_call_was_allowed(
    gateway: Machine, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A key that nobody knows: exit code 1, and whose fault it is."""
    (tmp_path / "key").write_text("exk-" + "z" * 10 + "-" + "z" * 32)
    assert main(words(gateway, "--key", str(tmp_path / "key"))) == 1
    said = capsys.readouterr().err
    assert "caller_invalid_key" in said
    assert "something is wrong with the key or the request" in said
    assert "knew the key" not in said


@pytest.mark.envoy
def test_another_gateways_state_folder(gateway: Machine, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The CA does not fit: that is said, not a bare TLS error."""
    shutil.copytree(gateway.state / "ca", tmp_path / "ca")
    shutil.copy(gateway.vendor_ca, tmp_path / "ca" / "bundle.pem")
    (tmp_path / "first-key").write_text(gateway.key)
    code = main(["try", "--state", str(tmp_path), "--proxy", f"127.0.0.1:{gateway.ports['connect']}"])
    assert code == 1
    assert "is not from the CA of this state folder" in capsys.readouterr().err


def test_nobody_listens(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """How to start it."""
    import certifi

    (tmp_path / "ca").mkdir()
    shutil.copy(certifi.where(), tmp_path / "ca" / "bundle.pem")
    (tmp_path / "first-key").write_text("exk-x")
    assert main(["try", "--state", str(tmp_path), "--proxy", f"127.0.0.1:{free_ports(1)[0]}"]) == 1
    said = capsys.readouterr().err
    assert "nobody listens here" in said
    assert "extproc up" in said


def test_no_state_folder(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Nothing was started yet."""
    assert main(["try", "--state", str(tmp_path / "none")]) == 1
    assert "start the gateway with `extproc up`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "found"), [("h:1", ("h", 1)), ("http://127.0.0.1:3128/", ("127.0.0.1", 3128)), ("[::1]:5", ("::1", 5))]
)
def test_proxy_addresses(text: str, found: tuple[str, int]) -> None:
    """As people write them."""
    assert split_proxy(text) == found


@pytest.mark.parametrize("text", ["", "foo", "foo:", ":1", "foo:x"])
def test_no_proxy_addresses(text: str) -> None:
    """The form is told."""
    with pytest.raises(ConfigError, match="HOST:PORT"):
        split_proxy(text)
