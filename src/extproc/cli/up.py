"""`extproc up`: everything on one machine.

Certificates, a first key, simulated vendors where there is no vendor key, workers, Envoy, metrics; then it says how to
point an SDK here. Ctrl-C drains, a second Ctrl-C ends at once.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from extproc.adapters import pki
from extproc.adapters.envoy_binary import envoy_command, envoy_version, find_envoy, validate
from extproc.adapters.envoy_check import cross_check
from extproc.adapters.envoy_files import flatten
from extproc.adapters.envoy_process import EnvoyProcess
from extproc.adapters.envoy_render import Address, Overrides, Upstream, render
from extproc.adapters.first_run import BUNDLE, CA_FOLDER, FIRST_KEY, Made, certificates, credential, prepare
from extproc.adapters.metrics_server import split_address
from extproc.bootstrap import Place, Sidecar, make_writer, set_up_logging
from extproc.cli.facts import gateway_facts, idle_times
from extproc.cli.output import FAILED, OK, say
from extproc.cli.place import add_place, config_path, read_config, state_folder
from extproc.cli.simulators import Simulated, Simulators
from extproc.cli.try_call import LOG_NAME
from extproc.config import Config
from extproc.errors import ConfigError

NAME: Final = "up"
HELP: Final = "run everything on this machine: certificates, key, workers, Envoy"

# entry -> default port; the names of Envoy's listeners, and `admin`
PORTS: Final = {
    "intercept": 8443,
    "connect": 3128,
    "base_url": 8080,
    "base_url_tls": 8444,
    "redirect": 15001,
    "admin": 9901,
}


@dataclass(slots=True)
class Settings:
    """The command line, made whole."""

    place: Place
    config: Config
    envoy_files: Path
    bind: str
    ports: dict[str, int]
    concurrency: int
    names: tuple[str, ...]
    simulated: dict[str, Simulated] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Envoy's working directory."""
        return self.place.state / "envoy"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_place(parser)
    listed = ", ".join(f"{name} {port}" for name, port in PORTS.items())
    parser.add_argument(
        "--port",
        action="append",
        default=[],
        metavar="ENTRY=PORT",
        help=f"another port for an entry (default: {listed})",
    )
    parser.add_argument("--bind", default="127.0.0.1", help="address of the entries (default: 127.0.0.1)")
    parser.add_argument(
        "--metrics", metavar="HOST:PORT", help="address of the metrics endpoint (default: gateway.yaml)"
    )
    parser.add_argument("--name", action="append", default=[], help="a further name of this gateway, for TLS base URLs")
    parser.add_argument("--envoy-files", type=Path, metavar="FOLDER", help="the Envoy files (default: envoy/)")
    parser.add_argument("--concurrency", type=int, default=2, help="Envoy's worker threads (default: 2)")


def run(args: argparse.Namespace) -> int:
    """Run until SIGINT or SIGTERM. Raises `ConfigError`."""
    settings = _settings(args)
    place, config = settings.place, settings.config
    made = prepare(place.state, config, os.environ)
    writer = make_writer(place)
    set_up_logging(config, writer)
    try:
        return asyncio.run(_run(settings, made))
    finally:
        writer.close()


def _settings(args: argparse.Namespace) -> Settings:
    path = config_path(args)
    if path is None:
        raise ConfigError("gateway.yaml", "no configuration found", "name one with --config")
    config = read_config(path)
    if args.metrics:
        split_address(args.metrics)
        config = config.model_copy(update={"metrics": config.metrics.model_copy(update={"address": args.metrics})})
    state = state_folder(args).absolute()
    ports = dict(PORTS)
    for given in args.port:
        name, _, number = given.partition("=")
        if name not in PORTS or not number.isdecimal():
            raise ConfigError("--port", f"{given!r} is not ENTRY=PORT", f"entries: {', '.join(PORTS)}")
        ports[name] = int(number)
    return Settings(
        place=Place(path.absolute(), state, state / LOG_NAME),
        config=config,
        envoy_files=args.envoy_files or envoy_folder(),
        bind=args.bind,
        ports=ports,
        concurrency=args.concurrency,
        names=tuple(args.name),
    )


def envoy_folder() -> Path:
    """`envoy/` here, or in the project that this package runs from."""
    candidates = (Path("envoy"), Path(__file__).resolve().parents[3] / "envoy")
    for folder in candidates:
        if (folder / "bootstrap.yaml").is_file():
            return folder
    raise ConfigError("envoy/", "the Envoy files were not found", "name their folder with --envoy-files")


async def _run(settings: Settings, made: Made) -> int:
    binary = find_envoy()
    version = envoy_version(binary)
    _secrets(settings)
    simulators = Simulators(settings.place.state, settings.config)
    try:
        settings.simulated = await simulators.start(settings.folder / "sds")
        _render(settings, binary)
        sidecar = Sidecar(settings.place, settings.config)
        drain = settings.config.workers.drain
        command = envoy_command(binary, concurrency=settings.concurrency, drain=drain)
        envoy = EnvoyProcess(command, settings.folder, ("127.0.0.1", settings.ports["admin"]))
        return await _Machine(sidecar, envoy, drain).run(lambda: _tell(settings, made, version))
    finally:
        simulators.stop()


def _secrets(settings: Settings) -> None:
    """Certificates and vendor keys, as SDS files that only Envoy reads."""
    certificates(settings.place.state, settings.config, settings.folder, settings.names)
    for name, provider in settings.config.providers.items():
        value = credential(name, provider.credential)
        if value is not None:
            pki.write_sds_secret(settings.folder / "sds" / f"{name}-key.yaml", f"{name}-key", value)


def _render(settings: Settings, binary: Path) -> None:
    config = settings.config
    facts = gateway_facts(config)
    listeners = {name: Address(settings.bind, port) for name, port in settings.ports.items() if name != "admin"}
    overrides = Overrides(
        listeners={**listeners, "admin": Address("127.0.0.1", settings.ports["admin"])},
        workers=config.workers.count,
        providers=facts.providers,
        upstreams={name: _upstream(settings, name) for name in config.providers},
        request_body=config.limits.request_body,
        idle=idle_times(config),
        access_log="run/access.log",
    )
    render(settings.envoy_files, settings.folder, overrides)
    problems = cross_check(facts, settings.folder, secrets_inline=True)
    problems = problems or validate(binary, flatten(settings.folder), settings.folder)
    if problems:
        raise problems[0]


def _upstream(settings: Settings, name: str) -> Upstream:
    provider = settings.config.providers[name]
    simulated = settings.simulated.get(name)
    if simulated is not None:
        return Upstream(Address("127.0.0.1", simulated.port), simulated.ca, simulated.server_name)
    if provider.upstream is None:
        return Upstream()
    host, port = split_address(provider.upstream.address)
    ca = Path(provider.upstream.ca) if provider.upstream.ca is not None else None
    return Upstream(Address(host, port), ca, provider.upstream.server_name or provider.hosts[0])


class _Machine:
    """Sidecar and Envoy together: both up, and down in order (Envoy's calls first, they need the workers)."""

    def __init__(self, sidecar: Sidecar, envoy: EnvoyProcess, drain: float) -> None:
        self._sidecar = sidecar
        self._envoy = envoy
        self._drain = drain
        self._stop = asyncio.Event()
        self._signals = 0

    async def run(self, ready: Callable[[], None]) -> int:
        """Run until a signal, or until one of the two ends by itself (exit code 1)."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._signalled)
        sidecar = asyncio.ensure_future(self._sidecar.run())
        waits: list[asyncio.Future[Any]] = []
        try:
            await self._sidecar.ready(sidecar)
            await self._envoy.start()
            ready()
            waits = [asyncio.ensure_future(self._envoy.ended()), asyncio.ensure_future(self._stop.wait())]
            await asyncio.wait([sidecar, *waits], return_when=asyncio.FIRST_COMPLETED)
            if not self._stop.is_set():
                say("a part of the gateway ended by itself; the rest is taken down (see the logs)")
                return FAILED
            say("draining: open calls may finish; Ctrl-C again ends them")
            await self._envoy.drain(self._drain)
            return OK
        finally:
            self._envoy.kill()
            for wait in waits:
                wait.cancel()
            self._sidecar.supervisor.stop()
            await asyncio.gather(sidecar, *waits, return_exceptions=True)

    def _signalled(self) -> None:
        self._signals += 1
        self._stop.set()
        if self._signals > 1:
            self._envoy.kill()
            self._sidecar.supervisor.stop()


def _tell(settings: Settings, made: Made, version: tuple[int, int, int]) -> None:
    """Where everything is, and how an SDK gets here."""
    state, ports, bind = settings.place.state, settings.ports, settings.bind
    bundle, key = state / CA_FOLDER / BUNDLE, state / FIRST_KEY
    lines = [f"extproc is up (Envoy {'.'.join(map(str, version))}, {settings.config.workers.count} workers)."]
    for name in settings.config.providers:
        simulated = settings.simulated.get(name)
        where = (
            f"a simulated vendor on 127.0.0.1:{simulated.port} (no vendor key is set)" if simulated else "the vendor"
        )
        lines.append(f"  {name:12} -> {where}")
    lines += [
        "",
        "  TLS interception  " + f"{bind}:{ports['intercept']}",
        "  HTTPS_PROXY       " + f"http://{bind}:{ports['connect']}",
        "  base URL          " + f"http://{bind}:{ports['base_url']}/v1",
        "  base URL by TLS   " + f"https://localhost:{ports['base_url_tls']}/v1",
        "  redirect          " + f"{bind}:{ports['redirect']}",
        "  metrics           " + f"http://{settings.config.metrics.address}/metrics",
        "  Envoy admin       " + f"http://127.0.0.1:{ports['admin']}",
        "",
        f"  key               {key}" + ("   (just made)" if made.secret else ""),
        f"  trust bundle      {bundle}",
        f"  logs              {settings.place.log}, {settings.folder / 'run'}",
        "",
        'Point an SDK here:   eval "$(extproc env)"',
        "Or watch one call:   extproc try",
    ]
    say("\n".join(lines))
    sys.stderr.flush()
