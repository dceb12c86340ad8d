"""Three network namespaces for the firewall: an app, a box that routes for it, and an internet of echo servers. Needs root."""

from __future__ import annotations

import contextlib
import json
import secrets
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from envoy.namespaces import run

ENVOY_UID, APP_UID, HELPER_UID = 1337, 2000, 2001
WORLD = "203.0.113.9"
WORLD6 = "2001:db8:77::9"
RESOLVER = "203.0.113.53"
INSIDE = "10.77.7.9"
RESOLVER6, INSIDE6 = "2001:db8:77::53", "fd00:77::9"
METADATA = "169.254.169.254"
METADATA6 = "fd00:ec2::254"
MORE_METADATA = ("169.254.170.23", "192.0.0.192", "168.63.129.16", "100.100.100.200")
MORE_METADATA6 = ("fd00:ec2::23", "fd20:ce::254")
LINK_LOCAL_METADATA = "fe80::a9fe:a9fe"  # on the box's link `out`
BOX, BOX_INSIDE, BOX_FOR_APP, APP = "203.0.113.1", "10.77.7.1", "198.51.100.1", "198.51.100.2"
TCP_PORTS = (22, 53, 80, 443, 853, 8443)
UDP_PORTS = (53, 123, 443, 853)

# answers every connection and every datagram with its own name and what it got
SERVER = """
import asyncio, sys
name, tcp, udp = sys.argv[1].encode(), *(list(map(int, word.split(","))) if word else [] for word in sys.argv[2:4])
class Datagrams(asyncio.DatagramProtocol):
    def connection_made(self, transport): self.transport = transport
    def datagram_received(self, data, address):
        self.transport.sendto(name + b":" + data, address)
        if data == b"push":
            for number in range(80): asyncio.get_running_loop().call_later(number / 10, self.transport.sendto, b"more", address)
async def serve(reader, writer):
    while data := await reader.read(4096):
        writer.write(name + b":" + data)
        if data == b"push":
            for _ in range(40):
                await asyncio.sleep(0.1)
                writer.write(b"more")
    writer.close()
async def main():
    loop = asyncio.get_running_loop()
    for port in tcp: await asyncio.start_server(serve, ["0.0.0.0", "::"], port)
    for port in udp:
        for host in sys.argv[4:]: await loop.create_datagram_endpoint(Datagrams, local_addr=(host, port))
    print("ready", flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""

# asks each (protocol, host, port): what answered, or how it failed
CLIENT = """
import encodings.idna, json, os, socket, sys
from concurrent.futures import ThreadPoolExecutor
uid, targets = int(sys.argv[1]), json.loads(sys.argv[2])
os.setgroups([]); os.setgid(uid); os.setuid(uid)
def ask(target):
    protocol, host, port = target
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(family, kind) as sock:
        sock.settimeout(2)
        try:
            sock.connect(socket.getaddrinfo(host, port, family, kind)[0][4])  # which knows fe80::1%eth0
            sock.send(b"hi")
            return sock.recv(99).decode().partition(":")[0] or "closed"
        except TimeoutError: return "timeout"
        except (ConnectionRefusedError, PermissionError): return "refused"  # by a packet, or by the kernel here
        except OSError as error: return type(error).__name__
with ThreadPoolExecutor(32) as pool: print(json.dumps(list(pool.map(ask, targets))))
"""

# holds connections over standard input: `open`, then lines of what to send; prints what comes
HOLDER = """
import encodings.idna, os, socket, sys
uid, host, port = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
os.setgroups([]); os.setgid(uid); os.setuid(uid)
if sys.argv[4:]:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(1)
    sock.connect((host, port))
else:
    sock = socket.create_connection((host, port), 3)
for line in sys.stdin:
    try:
        if line.strip(): sock.sendall(line.strip().encode())
        print(sock.recv(99).decode() or "closed", flush=True)
    except OSError as error:
        print(type(error).__name__, flush=True)
"""

Target = tuple[str, str, int]


@dataclass
class Nets:
    """The names of the three."""

    app: str
    box: str
    world: str

    def inside(self, name: str) -> tuple[str, ...]:
        """What runs a command there."""
        return ("ip", "netns", "exec", getattr(self, name))

    def ask(self, name: str, uid: int, targets: list[Target]) -> list[str]:
        """What answers each target, asked as this user."""
        command = [*self.inside(name), sys.executable, "-c", CLIENT, str(uid), json.dumps(targets)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        answers: list[str] = json.loads(done.stdout)
        return answers

    def nft(self, *words: str) -> str:
        """Run nft in the box."""
        return run(*self.inside("box"), "nft", *words)

    def egress(self, state: Path, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `extproc egress ...` in the box."""
        command = [*self.inside("box"), sys.executable, "-m", "extproc", "egress", *words, "--state", str(state)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    @contextlib.contextmanager
    def serving(self, name: str, label: str, tcp: str, udp: str = "", hosts: tuple[str, ...] = ()) -> Iterator[None]:
        """Echo servers for the time of a `with` block."""
        with self.process(name, SERVER, label, tcp, udp, *hosts) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield

    @contextlib.contextmanager
    def process(self, name: str, code: str, *words: str) -> Iterator[subprocess.Popen[str]]:
        """Run Python there; ended with the block."""
        command = [*self.inside(name), sys.executable, "-c", code, *words]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            try:
                yield process
            finally:
                process.kill()


@dataclass
class Held:
    """A connection that a process holds open."""

    process: subprocess.Popen[str]

    def say(self, text: str = "") -> str:
        """Send, and wait for an answer; the name of the error where there is none."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()


@contextlib.contextmanager
def held(nets: Nets, name: str, uid: int, host: str, port: int, *, udp: bool = False) -> Iterator[Held]:
    """Open a connection, or a datagram socket, as this user and hold it."""
    with nets.process(name, HOLDER, str(uid), host, str(port), *(("udp",) if udp else ())) as process:
        yield Held(process)


@contextlib.contextmanager
def nets() -> Iterator[Nets]:
    """`app` -- `box` -- `world`, both families towards the world, with its servers running."""
    mark = secrets.token_hex(3)
    made = Nets(f"fw-app-{mark}", f"fw-box-{mark}", f"fw-world-{mark}")
    try:
        _wire(made, mark)
        hosts = (WORLD, WORLD6, RESOLVER, RESOLVER6, INSIDE, INSIDE6, METADATA, METADATA6)
        tcp, udp = (",".join(map(str, ports)) for ports in (TCP_PORTS, UDP_PORTS))
        with made.serving("world", "world", tcp, udp, hosts):
            yield made
    finally:
        for name in (made.app, made.box, made.world):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def _wire(made: Nets, mark: str) -> None:
    for name in (made.app, made.box, made.world):
        run("ip", "netns", "add", name)
        run("ip", "-n", name, "link", "set", "lo", "up")
    links = ((made.app, "eth0", made.box, "apps"), (made.box, "out", made.world, "eth0"))
    for number, (one, inner, other, outer) in enumerate(links):
        names = f"a{number}{mark}", f"b{number}{mark}"
        run("ip", "link", "add", names[0], "netns", one, "type", "veth", "peer", names[1], "netns", other)
        for space, link, wanted in ((one, names[0], inner), (other, names[1], outer)):
            run("ip", "-n", space, "link", "set", link, "name", wanted, "up")
    addresses = {
        (made.app, "eth0"): (f"{APP}/24",),
        (made.box, "apps"): (f"{BOX_FOR_APP}/24",),
        (made.box, "out"): (f"{BOX}/24", f"{BOX_INSIDE}/24", "2001:db8:77::1/64", "fd00:77::1/64"),
        (made.world, "eth0"): (
            f"{WORLD}/24",
            f"{RESOLVER}/24",
            f"{INSIDE}/24",
            f"{WORLD6}/64",
            f"{RESOLVER6}/64",
            f"{INSIDE6}/64",
            f"{LINK_LOCAL_METADATA}/64",
        ),
        (made.world, "lo"): (
            *(f"{host}/32" for host in (METADATA, *MORE_METADATA)),
            *(f"{host}/128" for host in (METADATA6, *MORE_METADATA6)),
        ),
    }
    for (space, link), values in addresses.items():
        for value in values:
            run("ip", "-n", space, "address", "add", value, "dev", link, *(("nodad",) if "::" in value else ()))
    run("ip", "-n", made.app, "route", "add", "default", "via", BOX_FOR_APP)
    run("ip", "-n", made.box, "route", "add", "default", "via", WORLD)
    run("ip", "-n", made.box, "-6", "route", "add", "default", "via", WORLD6)
    run("ip", "-n", made.world, "route", "add", "default", "via", BOX)
    # the kernel sends few refusals a second, and a test makes many
    for setting in ("net.ipv4.ip_forward=1", "net.ipv4.icmp_ratelimit=0", "net.ipv6.icmp.ratelimit=0"):
        run("ip", "netns", "exec", made.box, "sysctl", "-qw", setting)
