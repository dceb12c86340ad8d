"""Minted certificates in the Envoy files: one filter chain for all hosts in place of one per provider (`minting.yaml`)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from extproc.adapters.envoy_files import BOOTSTRAP, CLUSTERS, Node, listeners, walk
from extproc.errors import ConfigError

MINTING: Final = "minting.yaml"  # documentation and template: it is no file of Envoy's
_SELECTOR: Final = "custom_tls_certificate_selector"
_PREFETCH: Final = "prefetch_secret_names"


def use_minting(documents: dict[str, Node], hosts: Sequence[str]) -> None:
    """Replace the chains that are chosen by name with the one of `minting.yaml`, and add its cluster.

    `documents`: the Envoy files by their relative names; changed in place. `hosts`: fetched before the first client asks.
    Raises ConfigError where `minting.yaml` is missing or is not the template.
    """
    template = documents.get(MINTING, {})
    if not isinstance(template.get("filter_chain"), dict) or not isinstance(template.get("cluster"), dict):
        raise ConfigError(
            MINTING, "is missing, or has no filter_chain and cluster", "copy it from the project's envoy/"
        )
    for listener in listeners(documents[BOOTSTRAP]):
        chains: list[Node] = listener.get("filter_chains", [])
        named = [chain for chain in chains if chain.get("filter_chain_match", {}).get("server_names")]
        if not named:
            continue
        chain = copy.deepcopy(template["filter_chain"])
        entry = str(named[0].get("name", "")).partition(".")[0]
        chain["name"] = f"{entry}.{chain['name']}"
        chain["filters"] = named[0]["filters"]
        for mapping in walk(chain["transport_socket"]):
            if _PREFETCH in mapping:
                mapping[_PREFETCH] = list(hosts)
        position = chains.index(named[0])
        rest = [other for other in chains if not any(other is one for one in named)]
        listener["filter_chains"] = [*rest[:position], chain, *rest[position:]]
    documents[CLUSTERS]["resources"].append(copy.deepcopy(template["cluster"]))
    for name in [name for name in documents if name.startswith("sds/intercept-")]:
        del documents[name]  # the keys are in memory only


def forget_files(sds: Path) -> None:
    """Remove leaves that an earlier run without minting left."""
    for path in sds.glob("intercept-*.yaml"):
        path.unlink()


def mints(node: object) -> bool:
    """Whether a part of the Envoy files takes its certificates from the minter."""
    return any(_SELECTOR in mapping for mapping in walk(node))
