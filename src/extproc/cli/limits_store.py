"""Opens the store of limits for a command: that of the configuration, or the one that runs beside a gateway here."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec
import structlog

from extproc.adapters.limit_books import Books
from extproc.adapters.valkey_process import socket_path
from extproc.adapters.valkey_topology import make_store
from extproc.cli.place import found_config, read_config, state_folder
from extproc.config import Config
from extproc.config.quotas import Quotas, compile_rules
from extproc.config.store_url import EMBEDDED
from extproc.errors import ConfigError
from extproc.limits.rules import Rules, check_organisation
from extproc.limits.scripts import leases_key

_CONNECT: Final = 2.0  # seconds


class Opened(msgspec.Struct, frozen=True):
    """The books of one organisation, and the limits that they are kept by."""

    books: Books
    rules: Rules
    organisation: str


def quotas_of(config: Config) -> Quotas:
    """The section of limits. Raises `ConfigError` where there is none."""
    if config.quotas is None:
        raise ConfigError(
            "quotas", "is not in this configuration: nothing is limited", "add the section: docs/limits.md"
        )
    return config.quotas


@asynccontextmanager
async def opened(args: argparse.Namespace) -> AsyncIterator[Opened]:
    """Connect for as long as the block takes. Raises `ConfigError` where the store is away."""
    quotas = quotas_of(read_config(found_config(args)))
    organisation: str = args.organisation or quotas.organisation
    try:
        check_organisation(organisation)
    except ValueError as error:
        raise ConfigError("--organisation", str(error), "write its name as it is in `extproc keys list`") from None
    embedded = quotas.store.place.form == EMBEDDED
    socket = socket_path(state_folder(args)) if embedded else Path()
    rules = Rules(compile_rules(quotas))
    store = make_store(quotas.store, socket, os.environ)
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))  # errors are told below
    try:
        await store.connect(_CONNECT)
        if store.since(leases_key(organisation)) is None:
            here = "start the gateway: extproc up; or name its folder with --state"
            hint = here if embedded else "see whether it runs, and quotas.store"
            raise ConfigError("quotas.store", f"does not answer: {store.trouble}", hint)
        yield Opened(Books(store, rules, organisation), rules, organisation)
    finally:
        await store.close()
        structlog.configure(**before)
