"""A CA for the simulator's tests, made once."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from extproc.adapters.pki import Authority, Leaf, create_ca
from extproc.sim import Settings, Simulator


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A CA constrained to what the tests call."""
    folder: Path = tmp_path_factory.mktemp("ca")
    return create_ca(folder, "simulator test CA", hosts=["localhost", "api.openai.com", "127.0.0.1"])


@pytest.fixture(scope="session")
def leaf(authority: Authority) -> Leaf:
    """The vendors' certificate."""
    return authority.issue(["localhost", "api.openai.com", "127.0.0.1"])


@pytest.fixture(scope="session")
def trust(authority: Authority) -> ssl.SSLContext:
    """A strict client that trusts only that CA."""
    context = ssl.create_default_context(cadata=authority.pem.decode())
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context


@pytest.fixture
async def sim(leaf: Leaf) -> AsyncIterator[Simulator]:
    """Both vendors over TLS."""
    async with Simulator("both", leaf, settings=Settings(control_port=0, grace=0.2)) as simulator:
        yield simulator
