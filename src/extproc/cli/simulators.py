"""Simulated vendors for `up`: for each provider that has neither a vendor key nor an upstream of its own."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from extproc.adapters import pki
from extproc.adapters.first_run import credential
from extproc.config import Config
from extproc.errors import ConfigError

# the names in the simulator's certificate, by api
SERVER_NAMES: Final = {"openai": "api.openai.com", "anthropic": "api.anthropic.com"}
_FOLDER: Final = "simulator"
_START_TIME: Final = 20.0


@dataclass(frozen=True, slots=True)
class Simulated:
    """Where a provider's simulated vendor listens, and the CA that it is checked against."""

    port: int
    ca: Path
    server_name: str


class Simulators:
    """One simulator process, which accepts one random vendor key: what reaches it shows who attached the key."""

    def __init__(self, state: Path, config: Config) -> None:
        """`names`: the providers that need one."""
        self._folder = state / _FOLDER
        self._apis = {
            name: provider.api
            for name, provider in config.providers.items()
            if provider.upstream is None and credential(name, provider.credential) is None
        }
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self, sds: Path) -> dict[str, Simulated]:
        """Start, write the key where Envoy reads it, say who is simulated. Raises `ConfigError`."""
        if not self._apis:
            return {}
        key = f"sim-{secrets.token_hex(24)}"
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        command = [
            *(sys.executable, "-m", "extproc.sim", "--port", "0", "--json", "--ca", str(self._folder)),
            *("--openai-key-env", "SIM_KEY", "--anthropic-key-env", "SIM_KEY"),
        ]
        environment = {**os.environ, "SIM_KEY": key}
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True
        )
        try:
            line = await asyncio.wait_for(asyncio.to_thread(self._first_line), _START_TIME)
            told = json.loads(line)
        except (TimeoutError, ValueError):
            self.stop()
            raise ConfigError("simulator", "did not start", "run it by hand: extproc sim") from None
        for name in self._apis:
            pki.write_sds_secret(sds / f"{name}-key.yaml", f"{name}-key", key)
        ca = Path(told["ca"])
        return {name: Simulated(told["port"], ca, SERVER_NAMES[api]) for name, api in self._apis.items()}

    def _first_line(self) -> bytes:
        return self._process.stdout.readline() if self._process is not None and self._process.stdout else b""

    def stop(self) -> None:
        """End the process."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._process is not None and self._process.stdout is not None:
            self._process.stdout.close()
