"""`extproc up`: everything on one machine.

Certificates, a first key, simulated vendors where there is no vendor key, workers, Envoy, metrics; then it says how to
point an SDK here. Ctrl-C drains, a second Ctrl-C ends at once.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from extproc.adapters import pki
from extproc.adapters.envoy_binary import envoy_command, envoy_version, find_envoy, validate
from extproc.adapters.envoy_check import cross_check
from extproc.adapters.envoy_files import flatten
from extproc.adapters.envoy_process import EnvoyProcess
from extproc.adapters.envoy_render import Address, Overrides, Upstream, render
from extproc.adapters.first_run import (
    BUNDLE,
    CA_FOLDER,
    FIRST_KEY,
    Made,
    certificates,
    credential,
    prepare,
    provider_hosts,
)
from extproc.adapters.leaves import Leaves
from extproc.adapters.metrics_server import split_address
from extproc.bootstrap import Place, Sidecar, make_writer, open_keys, own, renewing_for_ever, set_up_logging
from extproc.cli.facts import gateway_facts, idle_times
from extproc.cli.output import FAILED, OK, say
from extproc.cli.place import CONFIG_NAME, STATE_NAME, add_place, config_path, found_config, read_config, state_folder
from extproc.cli.ports import ADMIN, LOOPBACK, PORTS, REDIRECTED, check_free, chosen, counterpart
from extproc.cli.simulators import Simulated, Simulators
from extproc.cli.starter import write_starter
from extproc.cli.try_call import LOG_NAME
from extproc.config import Config
from extproc.errors import ConfigError

NAME: Final = "up"
HELP: Final = "run everything on this machine: certificates, key, workers, Envoy"
ACCESS_LOG: Final = "run/access.log"  # in the folder of the Envoy files


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
    with own(place):
        check_free(settings.bind, settings.ports)
        made = prepare(place.state, config, os.environ, settings.names)
        open_keys(config)
        writer = make_writer(place)
        set_up_logging(config, writer)
        try:
            return asyncio.run(_run(settings, made))
        except asyncio.CancelledError:  # SIGTERM before there was anything to drain
            return FAILED
        finally:
            writer.close()


def _settings(args: argparse.Namespace) -> Settings:
    ports = chosen(args.port)
    path = config_path(args) or _starter(args)
    config = read_config(path)
    if args.metrics:
        split_address(args.metrics)
        config = config.model_copy(update={"metrics": config.metrics.model_copy(update={"address": args.metrics})})
    state = state_folder(args).absolute()
    return Settings(
        place=Place(path.absolute(), state, state / LOG_NAME),
        config=config,
        envoy_files=args.envoy_files or envoy_folder(),
        bind=args.bind,
        ports=ports,
        concurrency=args.concurrency,
        names=tuple(args.name),
    )


def _starter(args: argparse.Namespace) -> Path:
    """Write a configuration to start from, where the operator has named no other place for it."""
    if args.state is not None:
        return found_config(args)  # which is not there: it raises
    path = Path(CONFIG_NAME)
    write_starter(path)
    return path


def envoy_folder() -> Path:
    """`envoy/` here, or in the project that this package runs from."""
    candidates = (Path("envoy"), Path(__file__).resolve().parents[3] / "envoy")
    for folder in candidates:
        if (folder / "bootstrap.yaml").is_file():
            return folder
    raise ConfigError("envoy/", "the Envoy files were not found", "name their folder with --envoy-files")


async def _run(settings: Settings, made: Made) -> int:
    this = asyncio.current_task()
    if this is not None:  # until there is something to drain, SIGTERM ends like Ctrl-C: nothing stays behind
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    binary = find_envoy()
    version = envoy_version(binary)
    leaves = _secrets(settings)
    simulators = Simulators(settings.place.state, settings.config)
    try:
        settings.simulated = await simulators.start(settings.folder / "sds")
        _render(settings, binary)
        sidecar = Sidecar(settings.place, settings.config)
        drain = settings.config.workers.drain
        command = envoy_command(binary, concurrency=settings.concurrency, drain=drain)
        envoy = EnvoyProcess(command, settings.folder, (LOOPBACK, settings.ports[ADMIN]))
        machine = _Machine(sidecar, envoy, drain, settings.folder / ACCESS_LOG)
        return await machine.run(partial(_tell, settings, made, version), leaves)
    finally:
        simulators.stop()


def _secrets(settings: Settings) -> Leaves:
    """Write certificates and vendor keys as SDS files that only Envoy reads; returns what keeps the certificates fresh."""
    leaves = certificates(settings.place.state, settings.config, settings.folder, settings.names)
    for name, provider in settings.config.providers.items():
        value = credential(name, provider.credential)
        path = settings.folder / "sds" / f"{name}-key.yaml"
        if value is not None:
            pki.write_sds_secret(path, f"{name}-key", value)
        elif provider.credential is not None or not path.exists():
            # no key: Envoy starts, and calls to this provider are refused; an earlier run's key must not stay
            pki.write_atomic(path, b"resources: []\n")
    return leaves


def _render(settings: Settings, binary: Path) -> None:
    config = settings.config
    facts = gateway_facts(config)
    listeners = {name: Address(settings.bind, port) for name, port in settings.ports.items() if name != ADMIN}
    other = counterpart(settings.bind)
    overrides = Overrides(
        listeners={**listeners, ADMIN: Address(LOOPBACK, settings.ports[ADMIN])},
        also={} if other is None else {name: Address(other, settings.ports[name]) for name in REDIRECTED},
        workers=config.workers.count,
        providers=facts.providers,
        upstreams={name: _upstream(settings, name) for name in config.providers},
        request_body=config.limits.request_body,
        idle=idle_times(config),
        access_log=ACCESS_LOG,
        minted=provider_hosts(config) if config.interception.minting else None,
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
    given = provider.upstream
    address = _tcp(given.address)
    ca = Path(given.ca) if given.ca is not None else None
    server_name = given.server_name or (provider.hosts[0] if address is not None else None)
    return Upstream(address, ca, server_name, _tcp(given.proxy and given.proxy.removeprefix("http://")))


def _tcp(address: str | None) -> Address | None:
    return None if address is None else Address(*split_address(address))


class _Machine:
    """Sidecar and Envoy together: both up, and down in order (Envoy's calls first, they need the workers)."""

    def __init__(self, sidecar: Sidecar, envoy: EnvoyProcess, drain: float, log: Path) -> None:
        self._sidecar = sidecar
        self._envoy = envoy
        self._drain = drain
        self._log = log
        self._stop = asyncio.Event()
        self._signals = 0

    async def run(self, ready: Callable[[], None], leaves: Leaves) -> int:
        """Run until a signal, or until one of the two ends by itself (exit code 1); `leaves` are renewed meanwhile."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._signalled)
        sidecar = asyncio.ensure_future(self._sidecar.run())
        starting = asyncio.ensure_future(self._start(sidecar))
        waits: list[asyncio.Future[Any]] = [starting, asyncio.ensure_future(self._stop.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                say("stopped before it was up")
                return FAILED
            starting.result()
            ready()
            waits[0] = asyncio.ensure_future(self._envoy.ended())
            waits += [
                asyncio.ensure_future(renewing_for_ever(leaves)),
                asyncio.ensure_future(self._envoy.rotate(self._log)),
            ]
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

    async def _start(self, sidecar: asyncio.Future[None]) -> None:
        await self._sidecar.ready(sidecar)
        await self._envoy.start()

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
        f"  key               {_about_key(key, made)}",
        f"  trust bundle      {bundle}",
        f"  logs              {settings.place.log}, {settings.folder / 'run'}",
        "",
        f'Point an SDK here:   eval "$(extproc env{_elsewhere(settings, "--port {}")})"',
        f"Or watch one call:   extproc try{_elsewhere(settings, f'--proxy {LOOPBACK}:{{}}')}",
    ]
    say("\n".join(lines))
    sys.stderr.flush()


def _elsewhere(settings: Settings, port: str) -> str:
    """The options that another command needs to find this gateway, beyond its defaults."""
    place, connect = settings.place, settings.ports["connect"]
    options = []
    if place.state != Path(STATE_NAME).absolute():
        options.append(f"--state {shlex.quote(str(place.state))}")
    if place.config != Path(CONFIG_NAME).absolute() or options:
        options.append(f"--config {shlex.quote(str(place.config))}")
    if connect != PORTS["connect"]:
        options.append(port.format(connect))
    return "".join(f" {option}" for option in options)


def _about_key(path: Path, made: Made) -> str:
    """Where the first key is. A key is shown once, when it is made: a lost one can only be followed by another."""
    if made.secret:
        return f"{path}   (just made)"
    if path.is_file():
        return str(path)
    make = f"extproc keys create --team demo --app demo > {path}"
    return f"none at hand: the key file has keys, and they are shown only when made. Make one: {make}"
