"""Interception certificates before real clients and a real Envoy: chain, rotation under load, minting, refused keys."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from envoy import raw
from envoy.machine import ENTRIES, LIMITS, Machine, free_ports, running
from envoy.ways import wait_for
from extproc.adapters.leaves import read_leaf
from extproc.adapters.pki import write_sds_certificate
from extproc.adapters.pki_chain import ChainPlan, create_chain, load_issuer

pytestmark = pytest.mark.envoy

STREAMS = 200
HOST = "api.openai.com"


@pytest.fixture(scope="module")
def filed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A gateway whose certificates are files."""
    with running(tmp_path_factory.mktemp("filed")) as machine:
        yield machine


@pytest.fixture(scope="module")
def minted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A gateway that mints."""
    extra = f"{LIMITS}\ninterception: {{minting: true}}\n"
    with running(tmp_path_factory.mktemp("minted"), extra=extra) as machine:
        yield machine


def shake(machine: Machine, name: str | None, *, entry: str = "intercept", ca: Path | None = None) -> x509.Certificate:
    """The leaf that a new connection gets; raises what the client makes of it."""
    context = ssl.create_default_context(cafile=str(ca or machine.ca))
    context.check_hostname = name is not None
    with socket.create_connection(("127.0.0.1", machine.ports[entry]), timeout=10) as sock:
        if entry == "connect":
            sock.sendall(f"CONNECT {HOST}:443 HTTP/1.1\r\nhost: {HOST}:443\r\n\r\n".encode())
            assert b" 200 " in sock.recv(4096)
        with context.wrap_socket(sock, server_hostname=name) as tls:
            return x509.load_der_x509_certificate(tls.getpeercert(binary_form=True) or b"")


SDK_PROGRAM = """
import anthropic, openai
chat = openai.OpenAI(max_retries=0).chat.completions.create(
    model="gpt-4o-mini", messages=[{"role": "user", "content": "hi"}])
message = anthropic.Anthropic(max_retries=0).messages.create(
    model="claude-haiku-4-5", max_tokens=20, messages=[{"role": "user", "content": "hi"}])
print(bool(chat.choices[0].message.content), bool(message.content[0].text))
"""


@pytest.mark.parametrize("kind", ["filed", "minted"])
def test_official_sdks_with_the_bundle(kind: str, request: pytest.FixtureRequest) -> None:
    """Nothing but SSL_CERT_FILE, HTTPS_PROXY and a key: the SDKs' own HTTP clients take root, intermediate and leaf."""
    machine: Machine = request.getfixturevalue(kind)
    environment = {
        **{name: value for name, value in os.environ.items() if "proxy" not in name.lower()},
        "SSL_CERT_FILE": str(machine.bundle),
        "HTTPS_PROXY": f"http://127.0.0.1:{machine.ports['connect']}",
        "OPENAI_API_KEY": machine.key,
        "ANTHROPIC_API_KEY": machine.key,
    }
    command = [sys.executable, "-c", SDK_PROGRAM]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout.strip(), done.returncode) == ("True True", 0), done.stderr


@pytest.mark.parametrize("kind", ["filed", "minted"])
def test_the_chain_as_openssl_sees_it(kind: str, request: pytest.FixtureRequest) -> None:
    """Leaf, intermediate, no root; it verifies with the bundle, strictly, for the name that was asked for."""
    machine: Machine = request.getfixturevalue(kind)
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{machine.ports['intercept']}", "-servername", HOST]
    command += ["-CAfile", str(machine.bundle), "-verify_hostname", HOST, "-verify_return_error", "-x509_strict"]
    done = subprocess.run([*command, "-showcerts"], input=b"", capture_output=True, timeout=20, check=False)
    sent = x509.load_pem_x509_certificates(done.stdout)  # the leaf is shown once more at the end
    issuer = load_issuer(machine.ca.parent)
    assert b"Verify return code: 0 (ok)" in done.stdout, done.stderr
    assert sent[1:2] == [issuer.certificate]
    assert issuer.roots[0] not in sent
    sent[0].verify_directly_issued_by(issuer.certificate)


def test_a_boringssl_client(filed: Machine) -> None:
    """gRPC's TLS: BoringSSL knows no name constraints for addresses, and takes a leaf that has none."""
    credentials = grpc.ssl_channel_credentials(root_certificates=filed.ca.read_bytes())
    options = [("grpc.ssl_target_name_override", HOST)]
    with grpc.secure_channel(f"127.0.0.1:{filed.ports['intercept']}", credentials, options) as channel:
        grpc.channel_ready_future(channel).result(timeout=10)
    stranger = make_ca_file(filed.folder)
    other = grpc.ssl_channel_credentials(root_certificates=stranger)
    with (
        grpc.secure_channel(f"127.0.0.1:{filed.ports['intercept']}", other, options) as channel,
        pytest.raises(grpc.FutureTimeoutError),
    ):
        grpc.channel_ready_future(channel).result(timeout=1.5)


def make_ca_file(folder: Path) -> bytes:
    """The certificate of a CA that nobody has met."""
    create_chain(folder / "stranger", ChainPlan("stranger", (HOST,)))
    return (folder / "stranger" / "ca.pem").read_bytes()


# ---- rotation under load -----------------------------------------------------------------------------------------------


@dataclass
class Crowd:
    """Many slow streams over TLS connections of their own, which name the vendor and go on for seconds."""

    machine: Machine
    count: int
    begun: int = 0
    whole: list[raw.Reply] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    async def run(self) -> None:
        """Open all, read all to their ends."""
        context = ssl.create_default_context(cafile=str(self.machine.ca))
        await asyncio.gather(*(self._one(context, number) for number in range(self.count)))

    async def _one(self, context: ssl.SSLContext, number: int) -> None:
        await asyncio.sleep(number * 0.01)
        fields = [("content-type", "application/json"), ("authorization", f"Bearer {self.machine.key}")]
        fields += [("x-sim-chunk-ms", "250"), ("x-sim-tokens", "60")]
        body = b'{"model": "gpt-4o-mini", "stream": true, "messages": [{"role": "user", "content": "hi"}]}'
        request = raw.post("/v1/chat/completions", fields, body).replace(b"host: 127.0.0.1", f"host: {HOST}".encode())
        reply, port = raw.Reply(), self.machine.ports["intercept"]
        try:
            async with asyncio.timeout(90):
                reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=HOST)
                try:
                    writer.write(request)
                    await reader.readuntil(b"\r\n\r\n")
                    self.begun += 1
                    reply.body = await self._rest(reader)
                finally:
                    writer.transport.abort()  # closing would wait for the other side's last word
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            self.broken.append(repr(error))
            return
        reply.ended = time.monotonic()
        (self.whole if b"data: [DONE]" in reply.body else self.broken).append(reply)  # type: ignore[attr-defined]

    async def _rest(self, reader: asyncio.StreamReader) -> bytes:
        """The chunked body, up to its last chunk."""
        data = b""
        while not data.endswith(b"\r\n0\r\n\r\n"):
            piece = await reader.read(1 << 16)
            if not piece:
                raise asyncio.IncompleteReadError(data, None)
            data += piece
        return data


@pytest.mark.parametrize("kind", ["filed", "minted"])
async def test_rotation_under_load(kind: str, request: pytest.FixtureRequest) -> None:
    """200 open streams: leaves, intermediate and root are changed; none breaks, new connections have the new leaf."""
    machine: Machine = request.getfixturevalue(kind)
    crowd = Crowd(machine, STREAMS)
    first = await asyncio.to_thread(shake, machine, HOST)
    running_streams = asyncio.ensure_future(crowd.run())
    try:
        await change_everything(machine, crowd, running_streams, first)
        assert (len(crowd.whole), crowd.broken) == (STREAMS, [])
    finally:
        running_streams.cancel()
        await asyncio.gather(running_streams, return_exceptions=True)
        await asyncio.sleep(0.1)  # transports end in the loop's next rounds


async def change_everything(
    machine: Machine, crowd: Crowd, running_streams: asyncio.Future[None], first: x509.Certificate
) -> None:
    """What `test_rotation_under_load` does while the streams run; `first`: the leaf of the beginning."""
    for _ in range(1500):
        if crowd.begun == STREAMS:
            break
        await asyncio.sleep(0.02)
    assert crowd.begun == STREAMS
    seen, waits = [first], []
    for what in ("leaves", "intermediate", "root", "switch"):
        done = await asyncio.to_thread(machine.cli, "ca", "rotate", what)
        assert done.returncode == 0, done.stderr
        if what == "root":
            # the old one signs until all trust the next
            assert authority_key(await asyncio.to_thread(shake, machine, HOST)) == authority_key(seen[-1])
            continue
        began = time.monotonic()
        while time.monotonic() < began + 5:
            leaf = await asyncio.to_thread(shake, machine, HOST)
            if leaf != seen[-1] and (what == "leaves" or authority_key(leaf) != authority_key(seen[-1])):
                break
            await asyncio.sleep(0.02)
        waits.append(time.monotonic() - began)
        seen.append(leaf)
    assert not running_streams.done(), "the streams ended before the last rotation: nothing was shown"
    assert (crowd.whole, crowd.broken) == ([], [])
    await running_streams
    assert len({leaf.serial_number for leaf in seen}) == 4
    signers = [authority_key(leaf) for leaf in seen]
    assert (signers[0] == signers[1], len(set(signers))) == (True, 3)
    assert max(waits) < 3, waits
    assert (await asyncio.to_thread(machine.cli, "ca", "rotate", "forget")).returncode == 0
    await asyncio.to_thread(shake, machine, HOST)


def authority_key(leaf: x509.Certificate) -> bytes:
    """Which intermediate signed it: two of one day have the same name."""
    return leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier or b""


def test_leaves_are_renewed_while_it_runs(tmp_path: Path) -> None:
    """`up` replaces a leaf past two thirds of its life by itself: new connections have the new one before the old ends."""
    extra = f"{LIMITS}\ninterception: {{leaf_life: 60s}}\n"
    with running(tmp_path, extra=extra, workers=1) as machine:
        first = shake(machine, HOST)
        # one that is due in two seconds, so that the test need not wait for forty
        short, path = load_issuer(machine.ca.parent).issue([HOST], 3 / 86_400), machine.state / "envoy" / "sds"
        write_sds_certificate(path / "intercept-openai.yaml", "intercept-openai", short)
        known = {None, first.serial_number, x509.load_pem_x509_certificate(short.cert_pem).serial_number}
        assert wait_for(lambda: serial_or_none(machine) not in known, 60)
        assert shake(machine, HOST).not_valid_after_utc > first.not_valid_after_utc


def serial_or_none(machine: Machine) -> int | None:
    """Of the leaf that a new connection gets; None where a client refuses it."""
    try:
        return shake(machine, HOST).serial_number
    except ssl.SSLCertVerificationError:
        return None


# ---- minting -----------------------------------------------------------------------------------------------------------


def test_a_minted_leaf_comes_fast_and_is_in_no_file(minted: Machine) -> None:
    """For both vendors, on every intercepting entry; its public key is in no file of the state folder."""
    leaves = []
    for name in (HOST, "api.anthropic.com"):
        began = time.monotonic()
        leaves.append(shake(minted, name))
        assert time.monotonic() - began < 2
    for entry in ("redirect", "connect"):
        assert shake(minted, HOST, entry=entry) == leaves[0]
    prints = [leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)[-64:] for leaf in leaves]
    certificates = [leaf.public_bytes(Encoding.PEM)[100:160] for leaf in leaves]
    files = [path for path in minted.state.rglob("*") if path.is_file()]
    held = {path: path.read_bytes() for path in files}
    assert len(files) > 10
    for mark in (*prints, *certificates):
        assert [path for path, data in held.items() if mark in data] == []
    keys = {path.name for path, data in held.items() if b"PRIVATE KEY" in data}
    assert keys <= {"intermediate.pem", "root.key", "gateway.yaml", "ca.key"}


@pytest.mark.parametrize("name", ["evil.example", "sub.api.openai.com", "localhost", None])
@pytest.mark.parametrize("entry", ["intercept", "redirect", "connect"])
def test_an_unknown_name_gets_an_alert_at_once(minted: Machine, entry: str, name: str | None) -> None:
    """A TLS alert, not a reset and not a wait: also inside a CONNECT to a host that is allowed, and without a name."""
    shake(minted, HOST, entry=entry)
    began = time.monotonic()
    with pytest.raises(ssl.SSLError, match=re.compile("alert", re.IGNORECASE)) as refused:
        shake(minted, name, entry=entry)
    assert not isinstance(refused.value, ssl.SSLCertVerificationError)
    assert time.monotonic() - began < 1


def test_refused_names_leave_nothing_in_envoy(minted: Machine) -> None:
    """A caller who tries many names opens no stream that stays, and the log is bounded."""

    def open_streams() -> int:
        (line,) = re.findall(
            r"^cluster\.minting\.upstream_rq_active: (\d+)$", minted.get("admin", "/stats"), re.MULTILINE
        )
        return int(line)

    for number in range(100):
        with pytest.raises(ssl.SSLError):
            shake(minted, f"n{number}.example")
    assert wait_for(lambda: open_streams() <= 2)
    log = (minted.state / "extproc.log").read_text()
    assert '"name":"n0.example"' in log
    assert "PRIVATE KEY" not in log


# ---- keys that others can read -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "extra", "file", "mode"),
    [
        ("up", "", "intermediate.pem", 0o644),
        ("up", "", "root.key", 0o640),
        ("serve", "", "intermediate.pem", 0o604),
        ("serve", "interception: {minting: true}", "intermediate.pem", 0o640),
    ],
)
def test_a_readable_ca_key_stops_the_start(tmp_path: Path, command: str, extra: str, file: str, mode: int) -> None:
    """Exit code 1; the message names the file and the command that mends it. Nothing is left running."""
    machine = refused_machine(tmp_path, extra)
    path = machine.state / "ca" / file
    path.chmod(mode)
    words = (
        [word for name in ENTRIES for word in ("--port", f"{name}={machine.ports[name]}")] if command == "up" else []
    )
    place = ["--config", str(machine.config), "--state", str(machine.state)]
    program = [sys.executable, "-m", "extproc", command, *place, *words]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert f"chmod 600 {path}" in done.stderr
    assert "open to other users" in done.stderr


def test_serve_writes_and_keeps_leaves(tmp_path: Path) -> None:
    """Beside an Envoy that somebody else runs: a CA in the state folder is enough."""
    machine = refused_machine(tmp_path, "")
    program = [sys.executable, "-m", "extproc", "serve", "--config", str(machine.config), "--state", str(machine.state)]
    with (tmp_path / "out").open("wb") as out:
        process = subprocess.Popen(program, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
    try:
        path = machine.state / "envoy" / "sds" / "intercept-openai.yaml"
        assert wait_for(path.exists, 30), (tmp_path / "out").read_text()
        assert read_leaf(path).issuer == load_issuer(machine.state / "ca").certificate.subject
        process.send_signal(signal.SIGTERM)
        process.wait(40)
    finally:
        process.kill()
        process.wait()


def refused_machine(folder: Path, extra: str) -> Machine:
    """Files of a gateway that is not started: gateway.yaml, a first key, a CA with its names, no vendors."""
    machine = Machine(folder, extra=extra)
    machine.vendors._loop.close()
    text = "version: 1\nproviders: {openai: {api: openai, hosts: [api.openai.com]}}\naccess: [{team: demo}]\n"
    text += "keys: {file: keys.json, pepper: {file: pepper}}\nworkers: {count: 1, drain: 5s}\n"
    text += f'metrics: {{address: "127.0.0.1:{free_ports(1)[0]}"}}\n{extra}\n'
    machine.config.write_text(text)
    hosts = (HOST, "localhost", "127.0.0.1", "::1")
    create_chain(machine.state / "ca", ChainPlan("test", hosts))
    assert machine.cli("keys", "create", "--team", "demo", "--app", "demo").returncode == 0
    return machine
