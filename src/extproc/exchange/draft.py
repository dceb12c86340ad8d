"""The changes that the policies of one direction agree on, before they become one action."""

from __future__ import annotations

from dataclasses import dataclass, field

from extproc.dialects.dialect import Edit
from extproc.exchange.actions import Answer, BodyMode, Fixed, HeaderChange

UNCHANGED = HeaderChange()


@dataclass(slots=True)
class Draft:
    """Header changes, body edits and metadata of one direction of one exchange.

    On the request side the draft lives from the headers to the end of the body and goes out in one reply, so that an
    exchange costs one header mutation; on the response side headers and body have a draft each.
    """

    set: dict[str, str] = field(default_factory=dict)
    remove: list[str] = field(default_factory=list)
    edits: list[Edit] = field(default_factory=list)
    metadata: dict[str, dict[str, object]] = field(default_factory=dict)
    body_mode: BodyMode | None = None
    answer: Answer | None = None  # set by a policy that answers in the provider's place

    def note(self, namespace: str, **values: object) -> None:
        """Add dynamic metadata under `namespace`."""
        self.merge(namespace, values)

    def merge(self, namespace: str, values: dict[str, object]) -> None:
        """Add dynamic metadata under `namespace`; where it is the only one there, `values` itself goes out."""
        there = self.metadata.get(namespace)
        if there is None:
            self.metadata[namespace] = values
        elif type(there) is Fixed:
            self.metadata[namespace] = {**there, **values}
        else:
            there.update(values)

    def change(self) -> HeaderChange:
        """The header mutation so far. A header that is set is not also removed."""
        if not self.set and not self.remove:
            return UNCHANGED
        return HeaderChange(
            set=tuple(self.set.items()), remove=tuple(name for name in self.remove if name not in self.set)
        )
