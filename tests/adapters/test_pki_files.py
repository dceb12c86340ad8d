"""Key files: what is in them, and who may read them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from extproc.adapters import pki_files
from extproc.adapters.pki import CaShape, make_ca, write_atomic
from extproc.adapters.pki_files import key_pem, read_certificates, read_key, refuse_open, to_pem
from extproc.errors import ConfigError


def test_a_key_is_found_among_certificates(tmp_path: Path) -> None:
    """Before, between or after them: cert-manager and OpenSSL write them in either order."""
    one, two = make_ca(CaShape("one")), make_ca(CaShape("two"))
    parts = [to_pem(one.certificate), key_pem(one.key), to_pem(two.certificate)]
    for order in ((0, 1, 2), (1, 0, 2), (0, 2, 1)):
        path = tmp_path / "all.pem"
        write_atomic(path, b"".join(parts[index] for index in order))
        assert read_key(path).private_numbers() == one.key.private_numbers()
        assert read_certificates(path) == (one.certificate, two.certificate)


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o620, 0o601, 0o660, 0o666, 0o440])
def test_an_open_key_of_ours_is_refused(tmp_path: Path, mode: int) -> None:
    """Any right of group or others on our own file; the message names the file, the mode and the cure."""
    path = tmp_path / "key"
    path.write_bytes(b"x")
    path.chmod(mode)
    with pytest.raises(ConfigError) as refused:
        refuse_open(path)

    assert refused.value.path == str(path)
    assert f"{mode:04o}" in refused.value.reason
    assert refused.value.hint == f"chmod 600 {path}"


@pytest.mark.skipif(os.geteuid() != 0, reason="files of another user need root")
@pytest.mark.parametrize(
    ("mode", "refused"), [(0o440, False), (0o400, False), (0o444, True), (0o460, True), (0o640, False)]
)
def test_a_mounted_secret_may_be_read_by_our_group(tmp_path: Path, mode: int, refused: bool) -> None:
    """Kubernetes mounts a Secret for a pod's group (fsGroup) as another user's file: our group may read it, no more."""
    path = tmp_path / "key"
    path.write_bytes(b"x")
    os.chown(path, 12345, os.getegid())
    path.chmod(mode)
    if refused:
        with pytest.raises(ConfigError, match="open to other users"):
            refuse_open(path)
    else:
        refuse_open(path)
    os.chown(path, 12345, 54321)  # not our group: it is somebody else's
    path.chmod(0o440)
    with pytest.raises(ConfigError, match="open to other users"):
        refuse_open(path)


def test_rubbish_is_not_quoted(tmp_path: Path) -> None:
    """A file that is no key and no certificate is refused without a word of what is in it."""
    path = tmp_path / "key"
    edges = [b"-----%s PRIVATE KEY-----" % word for word in (b"BEGIN", b"END")]
    write_atomic(path, b"\nsecret-words\n".join(edges))
    for read in (read_key, read_certificates):
        with pytest.raises(ConfigError) as refused:
            read(path)
        assert "secret-words" not in str(refused.value)


def test_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One holder at a time, then the next; nothing is left in the folder; a read-only folder has a lock too."""
    monkeypatch.setattr(pki_files, "LOCK_WAIT", 0.1)
    tmp_path.chmod(0o500)
    with (
        pki_files.locked(tmp_path),
        pytest.raises(ConfigError, match="another process"),
        pki_files.locked(tmp_path),
    ):
        pass
    with pki_files.locked(tmp_path):
        assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match="ca init"), pki_files.locked(tmp_path / "none"):
        pass
