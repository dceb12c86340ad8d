"""Versions of `gateway.yaml`: what changed in each, and what to do with a file of another version."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from extproc.config.document import Document, Tree
from extproc.config.problems import Problem


@dataclass(frozen=True, slots=True)
class Version:
    """One format of the file. `migrate` says how to turn a file of the version before into this one."""

    number: int
    since: str  # the release of extproc that first read it
    changes: str
    migrate: str


VERSIONS: Final = (
    Version(
        number=1,
        since="0.1.0",
        changes="The first format.",
        migrate="There is no earlier format. A file without `version` is not read: add `version: 1` as its first line.",
    ),
)
CURRENT: Final = VERSIONS[-1].number


def check_version(document: Document) -> Problem | None:
    """Find the one mistake that makes all others noise: a file of a version that we do not read."""
    if not isinstance(document.tree, dict):
        return None
    line = document.line(("version",))
    written: Tree = document.tree.get("version")
    if "version" not in document.tree:
        return Problem("version", "is missing", f"add `version: {CURRENT}` as the first line")
    if isinstance(written, bool) or not isinstance(written, int):
        return Problem("version", "is not a whole number", f"write `version: {CURRENT}`", line=line)
    if written > CURRENT:
        reason = f"is {written}, newer than this release reads (up to {CURRENT})"
        return Problem("version", reason, "install the release of extproc that the file was written for", line=line)
    if written < CURRENT:
        notes = [f"to {known.number}: {known.migrate}" for known in VERSIONS if known.number > written]
        return Problem("version", f"is {written}, older than this release reads", "; ".join(notes), line=line)
    return None
