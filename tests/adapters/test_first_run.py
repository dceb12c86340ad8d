"""What first use makes, and what it leaves alone."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from extproc.adapters import first_run, pki
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
    files = [state / "first-key", state / "ca" / "ca.pem", state / "ca" / "ca.key", tmp_path / "k" / "keys.json"]
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
    assert pki.load_ca(state / "ca")


def test_a_name_that_came_after_the_ca(tmp_path: Path, config: Config) -> None:
    """The CA was made for the names of its day: a further one is refused with the cure."""
    state = tmp_path / "st"
    first_run.prepare(state, config, {})
    with pytest.raises(ConfigError) as refused:
        first_run.certificates(state, config, state / "envoy", ("gw.example",))

    assert "gw.example" in refused.value.path
    assert f"move {state / 'ca'} away" in refused.value.hint


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
