"""What gateway.yaml says to the Envoy files: shared by `up`, which writes them, and `check`, which compares."""

from __future__ import annotations

from extproc.adapters.envoy_check import GatewayFacts
from extproc.adapters.envoy_files import ProviderFacts
from extproc.config import Config


def idle_times(config: Config) -> dict[str, float]:
    """Seconds by timeout class, the default class first."""
    default = config.timeouts.default
    names = [default, *(name for name in config.timeouts.classes if name != default)]
    return {name: config.timeouts.classes[name].idle for name in names}


def gateway_facts(config: Config) -> GatewayFacts:
    """What the Envoy files must agree with."""
    providers = tuple(
        ProviderFacts(name, config.cluster(name), tuple(provider.hosts), provider.api)
        for name, provider in config.providers.items()
    )
    return GatewayFacts(providers, config.limits.request_body, idle_times(config))
