"""Root and intermediate: what OpenSSL makes of them, and every change of either without a break of trust."""

from __future__ import annotations

import datetime as dt
import errno
import itertools
import os
import ssl
import stat
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography import x509

from adapters.handshakes import handshake, resign, strict_client
from extproc.adapters import pki_chain
from extproc.adapters.pki import Authority, CaShape, Leaf, create_ca, make_ca, write_atomic
from extproc.adapters.pki_chain import ChainPlan, create_chain, load_issuer
from extproc.adapters.pki_files import read_certificates, read_key, to_pem
from extproc.errors import ConfigError

HOSTS = ("api.openai.com", "api.anthropic.com", "localhost", "127.0.0.1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A CA with an intermediate for two vendors."""
    create_chain(tmp_path / "ca", ChainPlan("test CA", HOSTS))
    return tmp_path / "ca"


def client(folder: Path) -> ssl.SSLContext:
    """What trusts only the roots that apps are told to trust; Python's own defaults, strict."""
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context


def openssl(folder: Path, leaf: Leaf, host: str) -> subprocess.CompletedProcess[str]:
    """`openssl verify` of a leaf with its chain, as a server of `host`."""
    (folder / "leaf.test").write_bytes(leaf.cert_pem)
    command = [
        "openssl",
        "verify",
        "-x509_strict",
        "-purpose",
        "sslserver",
        "-verify_ip" if host[0].isdigit() else "-verify_hostname",
        host,
    ]
    files = ["-CAfile", folder / "ca.pem", "-untrusted", folder / "leaf.test", folder / "leaf.test"]
    return subprocess.run([*command, *map(str, files)], capture_output=True, text=True, timeout=20, check=False)


def forged(issuer: Authority, host: str) -> Leaf:
    """A leaf for any host, signed with the intermediate's stolen key."""
    free = make_ca(CaShape("free"))
    leaf = resign(free.issue([host]), issuer)
    return Leaf(leaf.cert_pem + to_pem(*issuer.chain), leaf.key_pem)


def test_the_files(folder: Path) -> None:
    """Keys are private and apart: the root's is not in the file that signs. The root signs no leaf."""
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes == {"ca.pem": 0o644, "root.key": 0o600, "intermediate.pem": 0o600}
    (root,) = read_certificates(folder / "ca.pem")
    issuer = load_issuer(folder)
    assert read_key(folder / "root.key").public_key() == root.public_key()
    assert issuer.key.public_key() == issuer.certificate.public_key() != root.public_key()
    lengths = [c.extensions.get_extension_for_class(x509.BasicConstraints).value for c in (root, issuer.certificate)]
    assert [(basic.ca, basic.path_length) for basic in lengths] == [(True, 1), (True, 0)]
    assert pki_chain.vouched_for(issuer.certificate) == HOSTS
    assert pki_chain.vouched_for(root) == ()


@pytest.mark.parametrize("host", ["api.openai.com", "eu.api.anthropic.com", "127.0.0.1"])
def test_a_leaf_and_its_chain_verify(folder: Path, host: str) -> None:
    """Leaf first, then the intermediate, no root: a client that has only the root takes it."""
    leaf = load_issuer(folder).issue([host])
    sent = x509.load_pem_x509_certificates(leaf.cert_pem)
    assert sent[1:] == [load_issuer(folder).certificate]
    handshake(client(folder), leaf, host)
    assert openssl(folder, leaf, host).returncode == 0


@pytest.mark.parametrize("host", ["api.example.org", "openai.com", "10.0.0.1"])
def test_a_stolen_intermediate_is_good_for_its_hosts_only(folder: Path, host: str) -> None:
    """OpenSSL refuses a leaf outside the name constraints; we refuse to sign it."""
    leaf = forged(load_issuer(folder), host)
    with pytest.raises(ssl.SSLCertVerificationError, match=r"permitted|excluded"):
        handshake(client(folder), leaf, host)
    told = openssl(folder, leaf, host)
    assert told.returncode != 0
    assert "subtree violation" in told.stderr
    with pytest.raises(ConfigError, match="name constraints"):
        load_issuer(folder).issue([host])


def test_the_intermediate_makes_no_further_ca(folder: Path) -> None:
    """Path length 0: a CA below it is refused."""
    below = make_ca(CaShape("below"), load_issuer(folder))
    with pytest.raises(ssl.SSLCertVerificationError, match="path length"):
        handshake(client(folder), below.issue(["api.openai.com"]), "api.openai.com")


def test_a_bound_root(tmp_path: Path) -> None:
    """`bind_root`: a stolen root key is good for the hosts only, and a new intermediate cannot go beyond them."""
    create_chain(tmp_path, ChainPlan("bound", HOSTS, bind_root=True))
    (root,) = read_certificates(tmp_path / "ca.pem")
    assert pki_chain.vouched_for(root) == HOSTS
    with pytest.raises(ConfigError, match="mistral"):
        pki_chain.new_intermediate(tmp_path, ["api.mistral.ai"])
    thief = Authority(root, read_key(tmp_path / "root.key"))
    with pytest.raises(ssl.SSLCertVerificationError, match=r"permitted|excluded"):
        handshake(strict_client(thief.pem), resign(make_ca(CaShape("free")).issue(["a.example"]), thief), "a.example")


def test_the_root_key_goes_where_it_is_wanted(tmp_path: Path) -> None:
    """And everything but a new intermediate works without it."""
    create_chain(tmp_path / "ca", ChainPlan("test", HOSTS, root_key=tmp_path / "usb"))
    handshake(client(tmp_path / "ca"), load_issuer(tmp_path / "ca").issue(["localhost"]), "localhost")
    with pytest.raises(ConfigError, match="--root-key"):
        pki_chain.new_intermediate(tmp_path / "ca", HOSTS)
    pki_chain.new_intermediate(tmp_path / "ca", HOSTS, tmp_path / "usb")
    handshake(client(tmp_path / "ca"), load_issuer(tmp_path / "ca").issue(["localhost"]), "localhost")


def test_nothing_is_overwritten(folder: Path, tmp_path: Path) -> None:
    """An authority that is there, whole or in part, stays; so does a file in the root key's place."""
    with pytest.raises(ConfigError, match="already"):
        create_chain(folder, ChainPlan("second", HOSTS))
    (folder / "ca.pem").unlink()
    with pytest.raises(ConfigError, match="already"):
        create_chain(folder, ChainPlan("second", HOSTS))
    with pytest.raises(ConfigError, match="already"):
        create_chain(tmp_path / "new", ChainPlan("second", HOSTS, root_key=folder / "root.key"))
    assert not (tmp_path / "new").exists()


def test_a_new_intermediate_overlaps_with_the_old(folder: Path) -> None:
    """New key, new hosts; a leaf of the old one is good on, as is one of the new; apps trust what they trusted."""
    old, before = load_issuer(folder), (folder / "ca.pem").read_bytes()
    leaf = old.issue(["api.openai.com"])
    new = pki_chain.new_intermediate(folder, [*HOSTS, "api.mistral.ai"])
    assert new.certificate.public_key() != old.certificate.public_key()
    assert (folder / "ca.pem").read_bytes() == before
    handshake(client(folder), leaf, "api.openai.com")
    handshake(client(folder), load_issuer(folder).issue(["api.mistral.ai"]), "api.mistral.ai")
    assert old.end > dt.datetime.now(dt.UTC) + dt.timedelta(days=300)


def test_an_intermediate_is_renewed_in_time(folder: Path) -> None:
    """After two thirds of its life, for the same hosts, where the root's key is here; not before, not without."""
    issuer, now = load_issuer(folder), dt.datetime.now(dt.UTC)
    assert not pki_chain.renew_intermediate(folder, now + dt.timedelta(days=243))
    assert pki_chain.renew_intermediate(folder, now + dt.timedelta(days=244))
    assert load_issuer(folder).certificate != issuer.certificate
    assert pki_chain.vouched_for(load_issuer(folder).certificate) == HOSTS
    (folder / "root.key").unlink()
    assert not pki_chain.renew_intermediate(folder, now + dt.timedelta(days=900))


@pytest.mark.parametrize("older", [True, False])
def test_a_change_of_the_root_breaks_nothing(tmp_path: Path, older: bool) -> None:
    """Staged, switched, forgotten: a client with the bundle of any step takes the leaves of that step and its neighbours.

    `older`: from a root that signs leaves itself, as older versions made it.
    """
    folder = tmp_path / "ca"
    if older:
        create_ca(folder, "old", hosts=HOSTS)
    else:
        create_chain(folder, ChainPlan("old", HOSTS, bind_root=True))
    clients, first = [client(folder)], load_issuer(folder).issue(["localhost"])
    pki_chain.stage_root(folder, ChainPlan("new", HOSTS))
    clients.append(client(folder))
    for each in clients:  # nothing has changed for who has not the new bundle yet
        handshake(each, load_issuer(folder).issue(["localhost"]), "localhost")
    assert pki_chain.common_name(pki_chain.stage_root(folder, ChainPlan("another", HOSTS)).roots[0]) == "new"
    with pytest.raises(ConfigError, match="rotate switch"):
        pki_chain.forget_roots(folder)
    pki_chain.switch_root(folder)
    clients.append(client(folder))
    second = load_issuer(folder).issue(["localhost"])
    for each in clients[1:]:
        handshake(each, first, "localhost")
        handshake(each, second, "localhost")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(clients[0], second, "localhost")
    assert [pki_chain.common_name(root) for root in pki_chain.forget_roots(folder)] == ["old"]
    handshake(client(folder), load_issuer(folder).issue(["localhost"]), "localhost")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(client(folder), first, "localhost")
    assert sorted(path.name for path in folder.iterdir()) == ["ca.pem", "intermediate.pem", "root.key"]
    assert pki_chain.forget_roots(folder) == ()


def test_a_switch_goes_on_where_it_was_cut_off(folder: Path) -> None:
    """The process died after the first rename: the second run ends what the first began."""
    pki_chain.stage_root(folder, ChainPlan("new", HOSTS))
    (folder / "next" / "intermediate.pem").replace(folder / "intermediate.pem")
    handshake(client(folder), load_issuer(folder).issue(["localhost"]), "localhost")
    issuer = pki_chain.switch_root(folder)
    assert pki_chain.common_name(issuer.roots[0]) == "new"
    assert read_key(folder / "root.key").public_key() == issuer.roots[0].public_key()
    assert not (folder / "next").exists()


def test_a_switch_with_the_new_root_key_elsewhere(folder: Path, tmp_path: Path) -> None:
    """The old root's key does not stay where the new one's is looked for."""
    pki_chain.stage_root(folder, ChainPlan("new", HOSTS, root_key=tmp_path / "usb"))
    pki_chain.switch_root(folder)
    assert not (folder / "root.key").exists()
    pki_chain.new_intermediate(folder, HOSTS, tmp_path / "usb")


@pytest.fixture
def dying(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Lets a number of writes through; then the disk is full. -1: all."""
    real = pki_chain.write_atomic

    def after(writes: int) -> None:
        left = iter(range(writes)) if writes >= 0 else itertools.count()

        def write(path: Path, data: bytes, *, mode: int = 0o600) -> None:
            if next(left, None) is None:
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
            real(path, data, mode=mode)

        monkeypatch.setattr(pki_chain, "write_atomic", write)

    return after


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_no_half_ca_is_left(tmp_path: Path, dying: Callable[[int], None], writes: int) -> None:
    """A full disk at any write: nothing is there, the root's key elsewhere neither, and the next try makes a whole one."""
    plan = ChainPlan("test", HOSTS, root_key=tmp_path / "usb")
    dying(writes)
    with pytest.raises(OSError, match="No space left"):
        create_chain(tmp_path / "ca", plan)
    assert [path.name for path in (tmp_path / "ca").iterdir()] == []
    assert not (tmp_path / "usb").exists()
    dying(-1)
    create_chain(tmp_path / "ca", plan)
    handshake(client(tmp_path / "ca"), load_issuer(tmp_path / "ca").issue(["localhost"]), "localhost")


def test_a_root_key_in_no_folder(folder: Path, tmp_path: Path) -> None:
    """A wrong --root-key is said with the folder that is not there, and is in the way of nothing."""
    with pytest.raises(ConfigError, match=r"nodir: is no folder"):
        pki_chain.stage_root(folder, ChainPlan("new", HOSTS, root_key=tmp_path / "nodir" / "usb"))
    with pytest.raises(ConfigError, match="no next root"):
        pki_chain.switch_root(folder)
    pki_chain.stage_root(folder, ChainPlan("new", HOSTS, root_key=tmp_path / "usb"))
    assert pki_chain.staged(folder)


@pytest.mark.parametrize("writes", [0, 1, 2, 3])
def test_a_staging_goes_on_where_it_was_cut_off(folder: Path, dying: Callable[[int], None], writes: int) -> None:
    """At any write: nothing can be switched to that no app was given, and the second run leads to the end."""
    before = client(folder)
    (folder / "next").mkdir()
    (folder / "next" / "root.key").write_bytes(b"of a process that died")
    dying(writes)
    with pytest.raises(OSError, match="No space left"):
        pki_chain.stage_root(folder, ChainPlan("new", HOSTS))
    with pytest.raises(ConfigError, match=r"no next root|no app trusts it"):
        pki_chain.switch_root(folder)
    handshake(before, load_issuer(folder).issue(["localhost"]), "localhost")
    dying(-1)
    pki_chain.stage_root(folder, ChainPlan("new", HOSTS))
    given = client(folder)
    pki_chain.switch_root(folder)
    handshake(given, load_issuer(folder).issue(["localhost"]), "localhost")
    assert [pki_chain.common_name(root) for root in pki_chain.forget_roots(folder)] == ["test CA"]


def test_a_switch_that_died_at_its_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While `next/` was removed: the switch is done, can be run again, and what comes after it is not in the way."""
    pki_chain.stage_root(folder, ChainPlan("new", HOSTS))

    def dies(path: Path, **_: object) -> None:
        if path.exists():
            (path / "bundle.pem").unlink(missing_ok=True)
            raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(pki_chain.shutil, "rmtree", dies)
        with pytest.raises(OSError, match="Input/output"):
            pki_chain.switch_root(folder)
    assert not pki_chain.staged(folder)
    again = pki_chain.switch_root(folder)
    assert pki_chain.common_name(again.roots[0]) == "new"
    assert [pki_chain.common_name(root) for root in pki_chain.forget_roots(folder)] == ["test CA"]
    pki_chain.stage_root(folder, ChainPlan("third", HOSTS))
    assert pki_chain.common_name(pki_chain.switch_root(folder).roots[0]) == "third"
    assert sorted(path.name for path in folder.iterdir()) == ["ca.pem", "intermediate.pem", "root.key"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_root_changes_the_ca_of_a_service_user(folder: Path) -> None:
    """Every file stays that user's, through all steps: the gateway reads them."""
    for path in (folder, *folder.iterdir()):
        os.chown(path, 1234, 1235)
    pki_chain.new_intermediate(folder, HOSTS)
    pki_chain.stage_root(folder, ChainPlan("new", HOSTS))
    owners = {path.name: path.stat().st_uid for path in folder.rglob("*")}
    assert owners == dict.fromkeys(("ca.pem", "root.key", "intermediate.pem", "next"), 1234)
    pki_chain.switch_root(folder)
    pki_chain.forget_roots(folder)
    assert {path.name: path.stat().st_uid for path in folder.iterdir()} == dict.fromkeys(
        ("ca.pem", "root.key", "intermediate.pem"), 1234
    )


def test_a_root_in_use_is_not_forgotten(folder: Path) -> None:
    """A leaf that is not signed under the root that stays: apps would refuse it."""
    old = load_issuer(folder).issue(["localhost"])
    pki_chain.stage_root(folder, ChainPlan("new", HOSTS))
    pki_chain.switch_root(folder)
    new = load_issuer(folder).issue(["localhost"])
    used = {name: x509.load_pem_x509_certificates(leaf.cert_pem) for name, leaf in (("new", new), ("old.yaml", old))}
    with pytest.raises(ConfigError, match=r"old\.yaml: is in use"):
        pki_chain.forget_roots(folder, used)
    assert len(read_certificates(folder / "ca.pem")) == 2
    del used["old.yaml"]
    assert len(pki_chain.forget_roots(folder, used)) == 1


def test_the_next_root_signs_nothing_before_the_switch(folder: Path, tmp_path: Path) -> None:
    """Its key, named for `rotate intermediate`, would sign for apps that may not trust it yet. The old root's may."""
    pki_chain.stage_root(folder, ChainPlan("new", HOSTS, root_key=tmp_path / "usb"))
    before = (folder / "intermediate.pem").read_bytes()
    with pytest.raises(ConfigError, match="rotate switch"):
        pki_chain.new_intermediate(folder, HOSTS, tmp_path / "usb")
    assert (folder / "intermediate.pem").read_bytes() == before
    pki_chain.new_intermediate(folder, HOSTS)
    pki_chain.switch_root(folder)
    pki_chain.new_intermediate(folder, HOSTS, tmp_path / "usb")


def test_a_renewal_and_a_switch_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gateway has signed under the old root and not yet written it when an operator switches: the switch waits."""
    pki_chain.stage_root(folder, ChainPlan("new", HOSTS))
    real, begun, done = pki_chain.write_issuer, threading.Event(), threading.Event()

    def slow(target: Path, issuer: Authority) -> None:
        begun.set()
        assert not done.wait(0.5)  # the switch does not come between
        real(target, issuer)

    monkeypatch.setattr(pki_chain, "write_issuer", slow)
    with ThreadPoolExecutor(2) as pool:
        late = dt.datetime.now(dt.UTC) + dt.timedelta(days=300)
        renewed = pool.submit(pki_chain.renew_intermediate, folder, late)
        assert begun.wait(5)
        switched = pool.submit(pki_chain.switch_root, folder)
        switched.add_done_callback(lambda _: done.set())
        assert renewed.result(10)
        switched.result(10)
    used = pki_chain.root_in_use(folder)
    assert used is not None
    assert pki_chain.common_name(used) == "new"
    assert [pki_chain.common_name(root) for root in pki_chain.forget_roots(folder)] == ["test CA"]


def test_an_intermediate_of_the_future_is_renewed(folder: Path) -> None:
    """Made while the clock was two days ahead: no client takes it, so two thirds of its life are not waited for."""
    now = dt.datetime.now(dt.UTC)
    assert pki_chain.renew_intermediate(folder, now - dt.timedelta(days=2))
    assert not pki_chain.renew_intermediate(folder, now)


def test_a_foreign_intermediate_is_refused(folder: Path, tmp_path: Path) -> None:
    """One that leads to no root of ours would be refused by every app: it is refused here, with a reason."""
    create_chain(tmp_path / "b", ChainPlan("b", HOSTS))
    write_atomic(folder / "intermediate.pem", (tmp_path / "b" / "intermediate.pem").read_bytes())
    with pytest.raises(ConfigError, match=r"no root in ca\.pem"):
        load_issuer(folder)


def test_an_intermediate_that_nothing_binds_is_refused(folder: Path) -> None:
    """Put there by hand: a stolen key would be good for every host. Refused wherever it would sign."""
    (root,) = read_certificates(folder / "ca.pem")
    signer = Authority(root, read_key(folder / "root.key"))
    pki_chain.write_issuer(folder, make_ca(CaShape("free"), signer))
    with pytest.raises(ConfigError, match=r"intermediate\.pem: is not bound by name constraints"):
        load_issuer(folder)
    pki_chain.write_issuer(folder, make_ca(CaShape("addresses", ("127.0.0.1",)), signer))
    assert load_issuer(folder).issue(["127.0.0.1"]).cert_pem
    pki_chain.write_issuer(folder, make_ca(CaShape("free"), signer))
    pki_chain.stage_root(folder, ChainPlan("bound", HOSTS))
    pki_chain.switch_root(folder)
    assert pki_chain.vouched_for(load_issuer(folder).certificate) == HOSTS


def test_an_older_root_signs_no_intermediate(tmp_path: Path) -> None:
    """It has path length 0: apps would refuse all that such an intermediate signs. The root signs leaves on."""
    folder = tmp_path / "ca"
    create_ca(folder, "old", hosts=HOSTS)
    with pytest.raises(ConfigError, match=r"path length.*ca rotate root"):
        pki_chain.new_intermediate(folder, HOSTS, folder / "ca.key")
    assert sorted(path.name for path in folder.iterdir()) == ["ca.key", "ca.pem"]
    handshake(client(folder), load_issuer(folder).issue(["localhost"]), "localhost")


def test_a_root_changes_after_its_intermediate_has_ended(folder: Path) -> None:
    """The way out does not ask for what is over."""
    (root,) = read_certificates(folder / "ca.pem")
    ended = make_ca(CaShape("ended", HOSTS, days=-1 / 48), Authority(root, read_key(folder / "root.key")))
    pki_chain.write_issuer(folder, ended)
    with pytest.raises(ConfigError, match="expired"):
        load_issuer(folder)
    pki_chain.stage_root(folder, ChainPlan("new", HOSTS))
    pki_chain.switch_root(folder)
    handshake(client(folder), load_issuer(folder).issue(["localhost"]), "localhost")
