"""Leaves in Envoy's folder: renewed in time, each by one rename, whoever else renews them too."""

from __future__ import annotations

import asyncio
import datetime as dt
import stat
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from extproc.adapters import leaves, pki_chain, pki_files
from extproc.adapters.leaves import Leaves, Reissued, Wanted
from extproc.adapters.pki import Authority
from extproc.adapters.pki_chain import ChainPlan
from extproc.errors import ConfigError

WANTED = (Wanted("intercept-openai", ("api.openai.com",)), Wanted("gateway", ("localhost", "127.0.0.1")))
HOUR = 3600.0


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    pki_chain.create_chain(tmp_path / "ca", ChainPlan("test", ("api.openai.com", "localhost", "127.0.0.1")))
    return tmp_path / "ca"


@pytest.fixture
def kept(ca: Path, tmp_path: Path) -> Leaves:
    made = Leaves(ca, tmp_path / "sds", WANTED, 24 * HOUR)
    made.write()
    return made


def soon(hours: float) -> dt.datetime:
    return dt.datetime.now(dt.UTC) + dt.timedelta(hours=hours)


def inodes(sds: Path) -> dict[str, int]:
    return {path.stem: path.stat().st_ino for path in sds.iterdir()}


def test_a_leaf_is_renewed_at_two_thirds_of_its_life(kept: Leaves, tmp_path: Path) -> None:
    """Not before; then a new file in the old one's place, private, for the same hosts, a new key."""
    before = inodes(tmp_path / "sds")
    old = leaves.read_leaf(tmp_path / "sds" / "gateway.yaml")
    assert kept.renew(soon(15.9)) == []
    assert inodes(tmp_path / "sds") == before
    assert kept.renew(soon(16.1)) == ["intercept-openai", "gateway"]
    after = inodes(tmp_path / "sds")
    assert sorted(after) == sorted(before)
    assert all(after[name] != before[name] for name in before)
    new = leaves.read_leaf(tmp_path / "sds" / "gateway.yaml")
    assert leaves.names_of(new) == leaves.names_of(old) == ("localhost", "127.0.0.1")
    assert new.public_key() != old.public_key()
    assert stat.S_IMODE((tmp_path / "sds" / "gateway.yaml").stat().st_mode) == 0o600


def test_what_another_process_renewed_is_not_due(kept: Leaves, ca: Path, tmp_path: Path) -> None:
    """The files are the state: `ca rotate` moves the time, a lost or damaged file is made at once."""
    assert kept.renew(soon(0)) == []
    assert leaves.reissue(ca, tmp_path / "sds", 48 * HOUR) == Reissued(("gateway", "intercept-openai"), ())
    assert kept.renew(soon(16.1)) == []
    (tmp_path / "sds" / "gateway.yaml").unlink()
    (tmp_path / "sds" / "intercept-openai.yaml").write_text("resources: []\n")
    assert kept.renew(soon(0)) == ["intercept-openai", "gateway"]


def test_a_new_intermediate_signs_the_next_leaf(kept: Leaves, ca: Path, tmp_path: Path) -> None:
    """The CA is read when a leaf is due: no restart."""
    new = pki_chain.new_intermediate(ca, ("api.openai.com", "localhost", "127.0.0.1"))
    kept.renew(soon(17))
    leaves.read_leaf(tmp_path / "sds" / "gateway.yaml").verify_directly_issued_by(new.certificate)
    assert kept.renew(soon(0)) == []


def test_the_intermediate_is_renewed_too(ca: Path, tmp_path: Path) -> None:
    """Where the root's key is here."""
    kept = Leaves(ca, tmp_path / "sds", WANTED, 24 * HOUR)
    kept.write()
    before = pki_chain.load_issuer(ca).certificate
    kept.renew(dt.datetime.now(dt.UTC) + dt.timedelta(days=250))
    assert pki_chain.load_issuer(ca).certificate != before


def test_what_fails_does_not_hold_up_the_rest(kept: Leaves, ca: Path, tmp_path: Path) -> None:
    """A root key that was opened to others, a host that the new intermediate is not for: the other leaf is renewed."""
    sds = tmp_path / "sds"
    pki_chain.new_intermediate(ca, ("localhost", "127.0.0.1"))
    before = inodes(sds)
    with pytest.raises(ConfigError, match=r"api\.openai\.com"):
        kept.renew(soon(17))
    after = inodes(sds)
    assert [name for name in before if after[name] != before[name]] == ["gateway"]


def test_an_intermediate_that_cannot_be_renewed_signs_on(ca: Path, tmp_path: Path) -> None:
    """It has a third of its life left; what is wrong is said, and leaves are written."""
    key = ca / "root.key"
    key.write_bytes(b"no key")
    with pytest.raises(ConfigError, match="not an unencrypted PEM key"):
        Leaves(ca, tmp_path / "sds", WANTED, 24 * HOUR).renew(soon(250 * 24))
    assert sorted(inodes(tmp_path / "sds")) == ["gateway", "intercept-openai"]


async def test_a_failure_is_logged_once_and_tried_again(ca: Path, tmp_path: Path) -> None:
    """A key that was opened to others stops renewal, and says so once; mended, it goes on by itself."""
    kept = Leaves(ca, tmp_path / "sds", WANTED, 24 * HOUR)
    (ca / "intermediate.pem").chmod(0o644)
    with capture_logs() as logs:
        await kept.look()
        await kept.look()
        assert [entry["log_level"] for entry in logs] == ["error"]
        assert "chmod 600" in str(logs[0]["reason"])
        (ca / "intermediate.pem").chmod(0o600)
        await kept.look()
    assert logs[-1]["names"] == ["intercept-openai", "gateway"]
    assert sorted(inodes(tmp_path / "sds")) == ["gateway", "intercept-openai"]


async def test_it_looks_by_itself(kept: Leaves, tmp_path: Path) -> None:
    """`run` looks again and again, until it is cancelled."""
    kept._look = 0.01
    (tmp_path / "sds" / "gateway.yaml").unlink()
    running = asyncio.ensure_future(kept.run())
    for _ in range(500):
        await asyncio.sleep(0.01)
        if (tmp_path / "sds" / "gateway.yaml").exists():
            break
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert (tmp_path / "sds" / "gateway.yaml").exists()


def test_a_brief_leaf_is_looked_at_often(ca: Path, tmp_path: Path) -> None:
    """Two looks fall into the last third of its life."""
    assert Leaves(ca, tmp_path, WANTED, 60)._look == 10
    assert Leaves(ca, tmp_path, WANTED, 24 * HOUR)._look == 30


def test_optional_hosts_are_left_out(kept: Leaves, ca: Path, tmp_path: Path) -> None:
    """Where the CA of today may not sign for them; the others stay."""
    pki_chain.new_intermediate(ca, ("api.openai.com", "localhost"))
    found = leaves.reissue(ca, tmp_path / "sds", 24 * HOUR, ("localhost", "127.0.0.1"))
    assert found == Reissued(("gateway", "intercept-openai"), ())
    assert leaves.names_of(leaves.read_leaf(tmp_path / "sds" / "gateway.yaml")) == ("localhost",)


def test_what_cannot_be_reissued_is_named(kept: Leaves, ca: Path, tmp_path: Path) -> None:
    """A provider that was taken out of the configuration: its file stays, the others are new. Foreign files stay out of it."""
    sds = tmp_path / "sds"
    (sds / "openai-key.yaml").write_text("resources: []\n")
    (sds / "intercept-broken.yaml").write_text("inline_string: no leaf\n")
    pki_chain.new_intermediate(ca, ("localhost", "127.0.0.1"))
    before = inodes(sds)
    found = leaves.reissue(ca, sds, 24 * HOUR)
    after = inodes(sds)
    assert found.made == ("gateway",)
    assert [path.stem for path, _ in found.skipped] == ["intercept-broken", "intercept-openai"]
    assert "api.openai.com" in found.skipped[1][1]
    assert [name for name in before if after[name] != before[name]] == ["gateway"]


def test_a_ca_that_has_expired_is_no_matter_of_one_file(
    kept: Leaves, ca: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can sign none: the rotation fails, where one file would have been left out with a word."""
    monkeypatch.setattr(Authority, "end", soon(-1))
    with pytest.raises(ConfigError, match="has expired"):
        leaves.reissue(ca, tmp_path / "sds", 24 * HOUR)


def test_leaves_in_use(kept: Leaves, ca: Path, tmp_path: Path) -> None:
    """Each with its chain; one that has ended is in nobody's use."""
    issuer = pki_chain.load_issuer(ca)
    used = leaves.in_use(tmp_path / "sds", soon(1))
    assert [Path(name).name for name in used] == ["gateway.yaml", "intercept-openai.yaml"]
    assert all(chain[1:] == issuer.chain for chain in used.values())
    assert leaves.in_use(tmp_path / "sds", soon(25)) == {}


def test_a_leaf_of_the_future_is_renewed(kept: Leaves, tmp_path: Path) -> None:
    """Made while the clock was ahead: every client refuses it, so it is due at once, and its successor is not."""
    assert kept.renew(soon(-48)) == ["intercept-openai", "gateway"]
    assert kept.renew(soon(0)) == []


@pytest.mark.parametrize(("folder", "file"), [(0o2750, 0o640), (0o2777, 0o640), (0o2700, 0o600), (0o750, 0o600)])
def test_a_shared_folder_shares_its_leaves(ca: Path, tmp_path: Path, folder: int, file: int) -> None:
    """Envoy of another user in the pod reads them by the group of the volume; a folder that we made is for us only."""
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(folder)
    Leaves(ca, tmp_path / "shared", WANTED, 24 * HOUR).write()
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "shared").iterdir()} == {file}


def test_leaves_wait_for_a_change_of_the_ca(kept: Leaves, ca: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another process changes it, none is signed; after a while that is said, and tried again later."""
    monkeypatch.setattr(pki_files, "LOCK_WAIT", 0.1)
    with pki_files.locked(ca), pytest.raises(ConfigError, match="another process"):
        kept.renew(soon(17))
    assert kept.renew(soon(17)) == ["intercept-openai", "gateway"]


def test_a_file_without_a_certificate_is_not_quoted(tmp_path: Path) -> None:
    """It may hold a key."""
    path = tmp_path / "x.yaml"
    path.write_text("resources: [{tls_certificate: {certificate_chain: {inline_string: secret-words}}}]\n")
    with pytest.raises(ConfigError) as refused:
        leaves.read_leaf(path)
    assert "secret-words" not in str(refused.value)
