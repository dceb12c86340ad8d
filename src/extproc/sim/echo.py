"""Answers that repeat the request: what went in comes back as content, as reasoning and in the arguments of tools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from extproc.sim.text import Hints, Json, Output, ToolCall, pieces_of

ECHO_MODEL: Final = "sim-echo"
"""A model of this name repeats the last thing that the user said; `sim-echo-all` repeats every text of the request."""
LAST: Final = "last"
ALL: Final = "all"
_CONSTANTS: Final = frozenset(
    {
        *("model", "role", "type", "id", "object", "status", "detail", "signature", "encrypted_content", "media_type"),
        *("call_id", "tool_call_id", "tool_use_id", "encoding_format", "tool_choice", "service_tier", "effort"),
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Echo:
    """What is repeated: `texts`, in their order in the request, in deltas of `piece` characters (see `Hints`)."""

    texts: tuple[str, ...]
    piece: int | None

    @property
    def output(self) -> Output:
        """The texts as lines of one text; no limit of the request cuts it."""
        return Output(pieces_of("\n".join(self.texts), self.piece), truncated=False)

    @property
    def document(self) -> Output:
        """The texts as one JSON object: the answer to a request for structured output."""
        return Output(pieces_of(orjson.dumps(self.arguments).decode(), self.piece), truncated=False)

    @property
    def arguments(self) -> dict[str, str]:
        """The texts as arguments of a tool: `text_0`, `text_1`, ..."""
        return {f"text_{index}": text for index, text in enumerate(self.texts)}

    def calls(self, names: Sequence[str]) -> tuple[ToolCall, ...]:
        """One call of each of these tools, all with the same arguments."""
        return tuple(ToolCall(name, self.arguments, self.piece) for name in names)


def echo_of(body: Json, hints: Hints, said: str) -> Echo | None:
    """What to repeat, where the request asks for it by header (`hints.echo`) or by the model's name.

    `said` is what the user said last.
    """
    model = body.get("model")
    mode = hints.echo
    if not mode and isinstance(model, str) and model.startswith(ECHO_MODEL):
        mode = ALL if model.startswith(f"{ECHO_MODEL}-{ALL}") else LAST
    if not mode:
        return None
    return Echo(tuple(_every_text(body)) if mode == ALL else (said,), hints.piece)


def offered(body: Json) -> tuple[str, ...]:
    """Names of the tools that an echo calls: all that are offered, one where calls must not be parallel."""
    choice = body.get("tool_choice")
    if choice == "none" or (isinstance(choice, Mapping) and choice.get("type") == "none"):
        return ()
    names = tuple(name for tool in body.get("tools") or () if (name := _name(tool)) is not None)
    alone = isinstance(choice, Mapping) and choice.get("disable_parallel_tool_use") is True
    return names[:1] if alone or body.get("parallel_tool_calls") is False else names


def _name(tool: object) -> str | None:
    if not isinstance(tool, Mapping):
        return None
    inner = tool.get("function")
    name = (inner if isinstance(inner, Mapping) else tool).get("name")
    return name if isinstance(name, str) else None


def _every_text(body: Json) -> list[str]:
    """Every string of a request but for constants, ids and inline files, in the order of the document."""
    found: list[str] = []
    rest: list[tuple[str, Any]] = [("", body)]
    while rest:  # a loop: a request may nest deeper than Python's stack
        key, value = rest.pop()
        if isinstance(value, str):
            if value and key not in _CONSTANTS and not value.startswith("data:"):
                found.append(value)
        elif isinstance(value, Mapping):
            rest.extend(reversed(value.items()))  # type: ignore[call-overload]  # a dict, as orjson made it
        elif isinstance(value, list):
            rest.extend((key, item) for item in reversed(value))
    return found
