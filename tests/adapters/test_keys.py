"""Virtual keys: found while they live, gone when they do not, and never lost by a change of the file."""

from __future__ import annotations

import hmac
import json
import os
import secrets
import time
from datetime import timedelta
from pathlib import Path, PurePath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.adapters import keys
from extproc.adapters.keyfile import KeyFile, write_atomically
from extproc.adapters.keys import KEY_LENGTH, PREFIX, FileKeyStore, Hasher, Owner, open_key_store, read_pepper
from extproc.config.model import Keys
from extproc.config.units import SecretRef
from extproc.errors import ConfigError
from extproc.exchange.effects import FoundKey

OWNER = Owner("demo", "chat", "acme", "ann")
HOUR = timedelta(hours=1)


@pytest.fixture
def hasher() -> Hasher:
    return Hasher(secrets.token_bytes(32))


@pytest.fixture
def key_file(tmp_path: Path, hasher: Hasher) -> KeyFile:
    return KeyFile(tmp_path / "keys.json", hasher)


def store_of(tmp_path: Path, hasher: Hasher) -> FileKeyStore:
    store = FileKeyStore(hasher)
    store.apply((tmp_path / "keys.json").read_bytes())
    return store


def test_a_created_key_is_found_with_its_owner(tmp_path: Path, key_file: KeyFile, hasher: Hasher) -> None:
    """The whole owner comes back, under an id that is safe to log."""
    new = key_file.create(OWNER, note="first")
    found = store_of(tmp_path, hasher).find(new.secret, time.time())
    assert found.caller is not None
    assert (found.caller.team, found.caller.app, found.caller.tenant, found.caller.user) == (
        "demo",
        "chat",
        "acme",
        "ann",
    )
    assert found.caller.key_id == new.entry.id
    assert not found.expired
    assert not found.caller.revoked


def test_a_key_has_its_form_and_its_entropy() -> None:
    """Prefix, id, 33 base62 characters; ids and secrets do not repeat."""
    made = [keys.new_secret(keys.new_id()) for _ in range(200)]
    assert len(set(made)) == 200
    assert len({secret.split("-")[1] for secret in made}) == 200
    for secret in made:
        assert len(secret) == KEY_LENGTH
        assert secret.startswith(PREFIX)
        assert secret.rsplit("-", 1)[1].isalnum()
    assert 62**keys.SECRET_LENGTH > 2**192


@pytest.mark.parametrize("delta", [-0.001, 0.0, 0.001])
def test_a_key_ends_at_its_time(tmp_path: Path, key_file: KeyFile, hasher: Hasher, delta: float) -> None:
    """Before its end it lives; at it and after it is expired, and still names its owner."""
    new = key_file.create(OWNER, expires=HOUR)
    assert new.entry.expires is not None
    found = store_of(tmp_path, hasher).find(new.secret, new.entry.expires.timestamp() + delta)
    assert found.caller is not None
    assert found.expired is (delta >= 0)


def test_a_revoked_key_is_told_as_such_and_stays_so(tmp_path: Path, key_file: KeyFile, hasher: Hasher) -> None:
    """From the next table on; a second revocation does not move its time."""
    new = key_file.create(OWNER)
    store = store_of(tmp_path, hasher)
    assert store.find(new.secret, 0.0).caller is not None
    first = key_file.revoke(new.entry.id)
    assert key_file.revoke(new.entry.id).revoked == first.revoked
    store.apply((tmp_path / "keys.json").read_bytes())
    found = store.find(new.secret, 0.0)
    assert found.caller is not None
    assert found.caller.revoked


def test_a_changed_secret_is_unknown(tmp_path: Path, key_file: KeyFile, hasher: Hasher) -> None:
    """Every single changed character, in id or secret, makes another key."""
    secret = key_file.create(OWNER).secret
    store = store_of(tmp_path, hasher)
    for index, char in enumerate(secret):
        changed = secret[:index] + ("x" if char != "x" else "y") + secret[index + 1 :]
        assert store.find(changed, 0.0) == FoundKey(None)
    assert store.find(secret, 0.0).caller is not None


@given(st.one_of(st.text(max_size=80), st.text(min_size=KEY_LENGTH - 4, max_size=KEY_LENGTH - 4).map(PREFIX.__add__)))
def test_nothing_a_caller_sends_breaks_the_look_up(text: str) -> None:
    """Any text, of the right length or not, with lone surrogates or not, is an unknown key."""
    assert FileKeyStore(Hasher(bytes(32))).find(text, 0.0) == FoundKey(None)
    assert FileKeyStore(Hasher(bytes(32))).find(PREFIX + "\ud800" * (KEY_LENGTH - 4), 0.0) == FoundKey(None)


def test_a_tampered_digest_and_a_moved_digest_are_unknown(tmp_path: Path, key_file: KeyFile, hasher: Hasher) -> None:
    """A digest belongs to its id: swapped between two entries it opens neither."""
    one, two = key_file.create(OWNER), key_file.create(Owner("admin", "all"))
    table = json.loads((tmp_path / "keys.json").read_text())
    first, second = table["keys"]
    first["digest"], second["digest"] = second["digest"], first["digest"]
    store = FileKeyStore(hasher)
    store.apply(json.dumps(table).encode())
    assert store.find(one.secret, 0.0) == FoundKey(None)
    assert store.find(two.secret, 0.0) == FoundKey(None)


def test_unknown_and_wrong_keys_take_the_same_path(
    tmp_path: Path, key_file: KeyFile, hasher: Hasher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A known id with a wrong secret, an unknown id, and the right key: each one digest and one full compare."""
    secret = key_file.create(OWNER).secret
    store = store_of(tmp_path, hasher)
    calls: list[tuple[int, int]] = []
    compare = hmac.compare_digest

    def counted(left: bytes, right: bytes) -> bool:
        calls.append((len(left), len(right)))
        return compare(left, right)

    monkeypatch.setattr(keys.hmac, "compare_digest", counted)
    wrong = secret[:-1] + ("0" if secret[-1] != "0" else "1")
    unknown = keys.new_secret(keys.new_id())
    for sent in (secret, wrong, unknown):
        store.find(sent, 0.0)
    assert calls == [(32, 32)] * 3


def test_a_look_up_is_fast(tmp_path: Path, key_file: KeyFile, hasher: Hasher) -> None:
    """It is on the way of every call: 3 µs is the goal, and the bound here is wide for a busy machine."""
    secret = key_file.create(OWNER).secret
    store = store_of(tmp_path, hasher)
    best = min(_time(store, secret) for _ in range(5))
    assert best < 15e-6


def _time(store: FileKeyStore, secret: str) -> float:
    start = time.perf_counter()
    for _ in range(2000):
        store.find(secret, 0.0)
    return (time.perf_counter() - start) / 2000


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda t: t["keys"].append(dict(t["keys"][0])), "twice"),
        (lambda t: t["keys"][0].pop("digest"), "digest"),
        (lambda t: t["keys"][0].update(digest="zz" * 32), "digest"),
        (lambda t: t["keys"][0].update(digest=t["keys"][0]["digest"] + "\n"), "digest"),
        (lambda t: t["keys"][0].update(id="SHOUTING!!"), "id"),
        (lambda t: t["keys"][0].update(expires="tomorrow"), "expires"),
        (lambda t: t["keys"][0].update(expires="2030-01-01T00:00:00"), "expires"),
        (lambda t: t["keys"][0].update(revokd="2030-01-01T00:00:00Z"), "revokd"),
        (lambda t: t["keys"][0].update(team=""), "team"),
        (lambda t: t.update(version=2), "version"),
        (lambda t: t.update(pepper="0" * 16), "pepper"),
        (lambda t: t.pop("pepper"), "pepper"),
    ],
)
def test_a_bad_file_is_refused_visibly_and_the_old_table_stays(tmp_path, key_file, hasher, damage, reason) -> None:
    """No half of a bad file counts; the status says why and how many keys are still in use."""
    secret = key_file.create(OWNER).secret
    store = store_of(tmp_path, hasher)
    table = json.loads((tmp_path / "keys.json").read_text())
    digest = table["keys"][0]["digest"]
    damage(table)
    with pytest.raises(ConfigError, match=reason) as caught:
        store.apply(json.dumps(table).encode())
    assert digest not in str(caught.value)
    assert store.find(secret, 0.0).caller is not None
    status = store.status()
    assert (status.ok, status.keys, status.generation) == (False, 1, 1)
    assert reason in status.error
    store.apply((tmp_path / "keys.json").read_bytes())
    assert store.status().ok
    assert store.status().generation == 2


@pytest.mark.parametrize("cut", [0, 1, 20, -2])
def test_a_cut_file_is_refused(tmp_path: Path, key_file: KeyFile, hasher: Hasher, cut: int) -> None:
    """Half a file is no file."""
    key_file.create(OWNER)
    data = (tmp_path / "keys.json").read_bytes()
    with pytest.raises(ConfigError, match="not a key file"):
        FileKeyStore(hasher).apply(data[:cut])


def test_a_pepper_comes_from_file_or_environment_alike(tmp_path: Path) -> None:
    """The line end that editors add is not part of it."""
    pepper = secrets.token_hex(32)
    path = tmp_path / "pepper"
    write_atomically(path, pepper.encode() + b"\n")
    assert read_pepper(SecretRef(file=path), {}) == read_pepper(SecretRef(env="PEPPER"), {"PEPPER": pepper})


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o602])
def test_a_pepper_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    """Of our own file even the group is too many."""
    path = tmp_path / "pepper"
    path.write_text(secrets.token_hex(32))
    path.chmod(mode)
    with pytest.raises(ConfigError, match="open to other users") as caught:
        read_pepper(SecretRef(file=path), {})
    assert "chmod 600" in caught.value.hint


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file to another user")
def test_a_mounted_pepper_may_be_read_by_our_group(tmp_path: Path) -> None:
    """Kubernetes mounts a secret as root:fsGroup with mode 0440; world-readable stays refused."""
    path = tmp_path / "pepper"
    path.write_text(secrets.token_hex(32))
    os.chown(path, 12345, -1)
    path.chmod(0o440)
    assert len(read_pepper(SecretRef(file=path), {})) == 64
    path.chmod(0o444)
    with pytest.raises(ConfigError, match="open to other users"):
        read_pepper(SecretRef(file=path), {})


@pytest.mark.parametrize(("mode", "allowed"), [(0o600, True), (0o644, True), (0o620, False), (0o602, False)])
def test_a_key_file_that_others_may_write_is_refused(
    tmp_path: Path, key_file: KeyFile, mode: int, allowed: bool
) -> None:
    """Whoever writes it could bring a revoked key back; reading it gives digests only."""
    key_file.create(OWNER)
    (tmp_path / "keys.json").chmod(mode)
    if allowed:
        assert keys.read_key_file(tmp_path / "keys.json")
    else:
        with pytest.raises(ConfigError, match="open to other users"):
            keys.read_key_file(tmp_path / "keys.json")


@pytest.mark.parametrize(
    ("reference", "environ", "reason"),
    [
        ({"env": "PEPPER"}, {}, "not set"),
        ({"env": "PEPPER"}, {"PEPPER": ""}, "not set"),
        ({"env": "PEPPER"}, {"PEPPER": "x" * 31}, "shorter than 32"),
        ({"file": PurePath("/nonexistent/pepper")}, {}, "cannot be read"),
    ],
)
def test_a_pepper_that_is_none_is_refused(reference, environ, reason) -> None:
    """Absent, empty, short."""
    with pytest.raises(ConfigError, match=reason):
        read_pepper(SecretRef(**reference), environ)


def test_the_store_opens_from_the_configuration(tmp_path: Path) -> None:
    """Pepper and key file as configured; without a key file the cure is told."""
    pepper = secrets.token_hex(32)
    settings_ = Keys(file=tmp_path / "keys.json", pepper=SecretRef(env="PEPPER"))
    with pytest.raises(ConfigError, match="keys create"):
        open_key_store(settings_, {"PEPPER": pepper})
    secret = KeyFile(tmp_path / "keys.json", Hasher(pepper.encode())).create(OWNER).secret
    assert open_key_store(settings_, {"PEPPER": pepper}).find(secret, 0.0).caller is not None
    with pytest.raises(ConfigError, match="not the pepper"):
        open_key_store(settings_, {"PEPPER": secrets.token_hex(32)})
