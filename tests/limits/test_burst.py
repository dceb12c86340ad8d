"""Many callers at one moment: what is admitted is what fits, whoever comes first."""

from __future__ import annotations

import socket as sockets
import threading
from pathlib import Path

import pytest
from valkey import Valkey

from extproc.limits.scripts import Calls, Handle, Name, State, script
from limits.store import book, bucket, clock, counter, month

LEASE = 60_000
CALLS = Calls()


def wire(*words: bytes) -> bytes:
    """A command as it goes over the wire."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


class Callers:
    """Threads with a connection each, released by a barrier, that send one command each round."""

    def __init__(self, path: Path, size: int) -> None:
        self.size = size
        self.commands: list[bytes] = [b""] * size
        self.states: list[int] = [-1] * size
        self.begin, self.end = threading.Barrier(size + 1, timeout=30), threading.Barrier(size + 1, timeout=30)
        self.over = False
        self.threads = [threading.Thread(target=self._run, args=(path, place)) for place in range(size)]
        for thread in self.threads:
            thread.start()

    def _run(self, path: Path, place: int) -> None:
        with sockets.socket(sockets.AF_UNIX) as connection:
            connection.settimeout(30)
            connection.connect(str(path))
            while True:
                self.begin.wait()
                if self.over:
                    return
                connection.sendall(self.commands[place])
                answer = b""
                while not answer.endswith(b"\r\n") or answer.count(b"\r\n") < 2:
                    answer += connection.recv(65536)
                lines = answer.split(b"\r\n")
                while len(lines) - 2 < int(lines[0][1:]):
                    answer += connection.recv(65536)
                    lines = answer.split(b"\r\n")
                self.states[place] = int(lines[1][1:])
                self.end.wait()

    def round(self, commands: list[bytes]) -> list[int]:
        self.commands[:] = commands
        self.begin.wait()
        self.end.wait()
        return list(self.states)

    def close(self) -> None:
        self.over = True
        self.begin.wait()
        for thread in self.threads:
            thread.join(10)


@pytest.mark.parametrize(("size", "rounds"), [(64, 600), (12, 400)])
def test_burst_never_passes(client: Valkey, socket: Path, size: int, rounds: int) -> None:
    """Callers at once, room for ten: exactly ten pass, in every one of the rounds; of mixed sizes those that fit."""
    sha = script(Name.RESERVE).sha
    client.script_load(script(Name.RESERVE).source)
    callers = Callers(socket, size)
    try:
        for number in range(rounds):
            mixed = number % 4 == 3
            counted = counter(f"o{size}-{number}", bucket(limit=100, period=86_400_000) if number % 2 else month())
            now = clock(client)
            wanted = [(7 * place) % 19 + 1 if mixed else 10 for place in range(size)]
            commands = [
                wire(
                    b"EVALSHA",
                    sha,
                    *CALLS.reserve(Handle(counted.organisation, f"{place}"), [book(counted, one, now)], LEASE),
                )
                for place, one in enumerate(wanted)
            ]
            states = callers.round(commands)
            assert set(states) <= {State.GRANTED, State.REFUSED}
            taken = sum(one for one, state in zip(wanted, states, strict=True) if state == State.GRANTED)
            spare = min((one for one, state in zip(wanted, states, strict=True) if state == State.REFUSED), default=101)
            assert taken <= 100
            assert 100 - taken < spare
            assert mixed or states.count(State.GRANTED) == 10
            assert int(client.hget(counted.key, "r")) == taken
    finally:
        callers.close()
