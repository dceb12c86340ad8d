"""Answers that are JSON because the request asked for it: originals must be put back as JSON spells them."""

from __future__ import annotations

import json
from typing import Final, Protocol

from extproc.text import Channel, ChannelKind, TextFilter

_OPENS: Final = ("{", "[")


class _Filter(TextFilter, Protocol):
    """A filter that says when it need not be asked."""

    @property
    def trigger(self) -> bytes | None:
        """Bytes of which one is in whatever changes anything; None: everything has to be seen."""

    @property
    def holding(self) -> bool:
        """Whether a part of any channel is held back."""


class JsonAnswers:
    """A `text.TextFilter` that takes texts for JSON where they begin as a document does, and leaves the work to `inner`.

    A model may answer a request for JSON with a refusal in prose, and think in prose before: those stay texts.
    """

    def __init__(self, inner: _Filter) -> None:
        self._inner: Final = inner
        self._told: dict[Channel, Channel] = {}  # what a channel turned out to be

    @property
    def trigger(self) -> bytes | None:
        """As `inner`'s, but for the beginnings, which have to be seen."""
        return None if self._inner.trigger is None else self._inner.trigger + b"{["

    @property
    def holding(self) -> bool:
        """Whether a part of any channel is held back."""
        return self._inner.holding

    def piece(self, channel: Channel, text: str) -> str:
        """The next piece of a channel -> what can go on now."""
        told = self._told.get(channel)
        if told is None:
            begins = text.lstrip()[:1]
            if channel.kind != "text" or not begins:
                return self._inner.piece(channel, text)
            told = self._told[channel] = channel._replace(kind="json") if begins in _OPENS else channel
        return self._inner.piece(told, text)

    def end(self, channel: Channel) -> str:
        """The channel is complete -> what was held back."""
        return self._inner.end(self._told.pop(channel, channel))

    def whole(self, kind: ChannelKind, text: str) -> str:
        """A complete text -> the edited text, the very same object where nothing changed."""
        return self._inner.whole("json" if kind == "text" and _is_document(text) else kind, text)


def _is_document(text: str) -> bool:
    if text.lstrip()[:1] not in _OPENS:
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
