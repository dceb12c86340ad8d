"""What first use makes, and what it leaves alone."""

from __future__ import annotations

import datetime as dt
import stat
from pathlib import Path

import pytest

from extproc.adapters import first_run, leaves, pki, pki_chain
from extproc.adapters.keys import FileKeyStore, Hasher, read_key_file, read_pepper
from extproc.config import Config, load
from extproc.config.units import SecretRef
from extproc.errors import ConfigError

TEXT = b"""
version: 1
providers: {openai: {api: openai, hosts: [api.openai.com]}}
keys: {file: k/keys.json, pepper: {file: p/pepper}}
access: [{team: demo}]
"""


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return load(TEXT, "gateway.yaml", base=tmp_path)


def test_everything_is_made_once(tmp_path: Path, config: Config) -> None:
    """Pepper, key, CA, bundle; private; a second start changes none of them and has no secret to show."""
    state = tmp_path / "st"
    made = first_run.prepare(state, config, {})
    files = [
        state / "first-key",
        state / "ca" / "ca.pem",
        state / "ca" / "intermediate.pem",
        tmp_path / "k" / "keys.json",
    ]
    files.append(tmp_path / "p" / "pepper")
    before = [file.read_bytes() for file in files]
    again = first_run.prepare(state, config, {})

    assert made.authority
    assert made.secret.startswith("exk-")
    assert files[0].read_text() == made.secret
    assert again == first_run.Made()
    assert [file.read_bytes() for file in files] == before
    assert all(stat.S_IMODE(files[index].stat().st_mode) == 0o600 for index in (0, 2, 3, 4))
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert (state / "ca" / "bundle.pem").read_bytes().count(b"BEGIN CERTIFICATE") > 1


def test_the_first_key_is_known_to_a_worker(tmp_path: Path, config: Config) -> None:
    """Its owner is team demo."""
    made = first_run.prepare(tmp_path / "st", config, {})
    store = FileKeyStore(Hasher(read_pepper(config.keys.pepper, {})))
    store.apply(read_key_file(Path(config.keys.file)))
    caller = store.find(made.secret, 0.0).caller
    assert caller is not None
    assert caller.team == "demo"


def test_a_lost_state_folder_makes_no_second_key(tmp_path: Path, config: Config) -> None:
    """Keys that are there stay the only ones: nothing is shown, and the file is not touched."""
    first_run.prepare(tmp_path / "st", config, {})
    keys = (tmp_path / "k" / "keys.json").read_bytes()
    again = first_run.prepare(tmp_path / "other", config, {})

    assert again.secret == ""
    assert again.authority
    assert not (tmp_path / "other" / "first-key").exists()
    assert (tmp_path / "k" / "keys.json").read_bytes() == keys


def test_a_lost_pepper_is_a_loss_and_not_a_first_use(tmp_path: Path, config: Config) -> None:
    """A new pepper would fit no key: it is refused, with the cure, and none is made."""
    first_run.prepare(tmp_path / "st", config, {})
    pepper = tmp_path / "p" / "pepper"
    pepper.unlink()
    with pytest.raises(ConfigError) as refused:
        first_run.prepare(tmp_path / "st", config, {})

    assert refused.value.path == "keys.pepper.file"
    assert "backup" in refused.value.hint
    assert not pepper.exists()


def test_certificates_are_for_the_hosts_and_from_the_ca(tmp_path: Path, config: Config) -> None:
    """One SDS file a provider, one for the gateway's own names; new at each start."""
    state = tmp_path / "st"
    first_run.prepare(state, config, {}, ("gw.example",))
    first_run.certificates(state, config, state / "envoy", ("gw.example",))
    sds = state / "envoy" / "sds"
    before = (sds / "intercept-openai.yaml").read_bytes()
    first_run.certificates(state, config, state / "envoy", ("gw.example",))

    assert sorted(path.name for path in sds.iterdir()) == ["gateway.yaml", "intercept-openai.yaml"]
    assert (sds / "intercept-openai.yaml").read_bytes() != before
    assert stat.S_IMODE((sds / "intercept-openai.yaml").stat().st_mode) == 0o600
    leaf = leaves.read_leaf(sds / "intercept-openai.yaml")
    assert leaves.names_of(leaf) == ("api.openai.com",)
    leaf.verify_directly_issued_by(pki_chain.load_issuer(state / "ca").certificate)
    assert leaf.not_valid_after_utc - dt.datetime.now(dt.UTC) <= dt.timedelta(days=1)


def test_a_name_that_came_after_the_ca(tmp_path: Path, config: Config) -> None:
    """The CA was made for the names of its day: a further one is refused with the cure."""
    state = tmp_path / "st"
    first_run.prepare(state, config, {})
    with pytest.raises(ConfigError) as refused:
        first_run.certificates(state, config, state / "envoy", ("gw.example",))

    assert "gw.example" in refused.value.path
    assert "ca rotate root" in refused.value.hint
    assert f"move {state / 'ca'} away" in refused.value.hint


def test_the_names_of_the_gateway_are_configured(tmp_path: Path) -> None:
    """`interception.names` stand in its own certificate, and the CA may sign for them."""
    text = TEXT + b"interception: {names: [llm.corp.example], leaf_life: 2h}\n"
    config, state = load(text, "gateway.yaml", base=tmp_path), tmp_path / "st"
    first_run.prepare(state, config, {})
    first_run.certificates(state, config, state / "envoy")

    leaf = leaves.read_leaf(state / "envoy" / "sds" / "gateway.yaml")
    assert leaves.names_of(leaf) == ("localhost", "127.0.0.1", "::1", "llm.corp.example")
    assert leaf.not_valid_after_utc - dt.datetime.now(dt.UTC) <= dt.timedelta(hours=2)


def test_minted_leaves_are_in_no_file(tmp_path: Path) -> None:
    """With minting, only the gateway's own certificate is written."""
    config, state = load(TEXT + b"interception: {minting: true}\n", "gateway.yaml", base=tmp_path), tmp_path / "st"
    first_run.prepare(state, config, {})
    first_run.certificates(state, config, state / "envoy")

    assert [path.name for path in (state / "envoy" / "sds").iterdir()] == ["gateway.yaml"]


def test_a_ca_that_may_not_sign_for_loopback(tmp_path: Path) -> None:
    """A corporate one: the gateway's certificate has its configured names alone; with none, the error says what to add."""
    text = TEXT + b"interception: {names: [llm.corp.example]}\n"
    config, state = load(text, "gateway.yaml", base=tmp_path), tmp_path / "st"
    pki_chain.create_chain(state / "ca", pki_chain.ChainPlan("corp", ("api.openai.com", "llm.corp.example")))
    first_run.certificates(state, config, state / "envoy")
    assert leaves.names_of(leaves.read_leaf(state / "envoy" / "sds" / "gateway.yaml")) == ("llm.corp.example",)
    with pytest.raises(ConfigError, match=r"interception\.names"):
        first_run.certificates(state, load(TEXT, "gateway.yaml", base=tmp_path), state / "envoy")


def test_a_ca_of_an_older_version_works_on(tmp_path: Path, config: Config) -> None:
    """A root that signs leaves itself stays what apps trust, and signs on."""
    state = tmp_path / "st"
    old = pki.create_ca(state / "ca", "old", hosts=["api.openai.com", *first_run.GATEWAY_NAMES])
    assert not first_run.prepare(state, config, {}).authority
    first_run.certificates(state, config, state / "envoy")

    leaf = leaves.read_leaf(state / "envoy" / "sds" / "intercept-openai.yaml")
    leaf.verify_directly_issued_by(old.certificate)
    assert old.pem in (state / "ca" / "bundle.pem").read_bytes()
    assert not (state / "ca" / "intermediate.pem").exists()


@pytest.mark.parametrize("file", ["intermediate.pem", "root.key"])
def test_an_open_key_stops_the_start(tmp_path: Path, config: Config, file: str) -> None:
    """The signing key, and the root's where it is here: the error names the file and the cure."""
    state = tmp_path / "st"
    first_run.prepare(state, config, {})
    path = state / "ca" / file
    path.chmod(0o640)
    with pytest.raises(ConfigError) as refused:
        first_run.prepare(state, config, {})

    assert (refused.value.path, refused.value.hint) == (str(path), f"chmod 600 {path}")


def test_credentials(tmp_path: Path) -> None:
    """Of a variable, of a file, of neither; a lost file is told by its place."""
    file = tmp_path / "key"
    file.write_text(" vendor \n")
    assert first_run.credential("a", None, {}) is None
    assert first_run.credential("a", SecretRef(env="X"), {}) is None
    assert first_run.credential("a", SecretRef(env="X"), {"X": "  "}) is None
    assert first_run.credential("a", SecretRef(env="X"), {"X": " v\n"}) == "v"
    assert first_run.credential("a", SecretRef(file=file), {}) == "vendor"
    with pytest.raises(ConfigError) as refused:
        first_run.credential("a", SecretRef(file=tmp_path / "none"), {})
    assert refused.value.path == "providers.a.credential.file"
