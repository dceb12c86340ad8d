"""Tests that need network namespaces: not permitted here is a failure, unless EGRESS_TESTS=skip."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from egress.place import Place, standing
from envoy.namespaces import why_not


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """An app, a gateway and an internet, with the rules loaded."""
    reason = why_not()
    if reason:
        if os.environ.get("EGRESS_TESTS") == "skip":
            pytest.skip(f"EGRESS_TESTS=skip: {reason}")
        pytest.fail(f"network namespaces are needed: {reason} (EGRESS_TESTS=skip leaves these tests out)")
    with standing(tmp_path_factory.mktemp("egress")) as made:
        made.lock()
        yield made
