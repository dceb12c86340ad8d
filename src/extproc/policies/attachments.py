"""Links and inline files in a request: nobody looks into them, so their type and size are what a policy can go by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from extproc.dialects.dialect import Text, show_path
from extproc.errors import ErrorCode, Rejection
from extproc.policies.grants import matches
from extproc.policies.profiles import Attachments

_SCHEME: Final = "data:"
_INLINE: Final = frozenset({"data", "file_data"})  # fields whose value is the file itself
_DEFAULT_TYPE: Final = "text/plain"  # RFC 2397: of a data URL without a media type
_UNKNOWN_TYPE: Final = "application/octet-stream"
_AUDIO: Final = "audio/"

Sibling = Callable[[str], object]
"""The value of another field of the object that a text is in; None where there is none."""


def link(text: Text, sibling: Sibling, rule: Attachments) -> str | None:
    """The link that `text` (of kind `url`) is, to be scanned as a text; None for an inline file that may pass.

    Raises `Rejection` (400) for a type, a size or a link that is not allowed. Data URLs: RFC 2397.
    """
    value = text.value
    if value[: len(_SCHEME)].lower() == _SCHEME:
        head, _, data = value[len(_SCHEME) :].partition(",")
        media, *parameters = head.lower().split(";")
        size = _decoded(data) if "base64" in [one.strip() for one in parameters] else len(data)
        _check(text, media.strip() or _DEFAULT_TYPE, size, rule)
        return None
    if text.path[-1] in _INLINE:
        _check(text, _stated_type(sibling), _decoded(value), rule)
        return None
    if not rule.links:
        raise _refusal(text, "links are not allowed here")
    return value


def _stated_type(sibling: Sibling) -> str:
    """What stands beside inline data: Anthropic's `media_type`, OpenAI's audio `format`; nothing for its files."""
    media, audio = sibling("media_type"), sibling("format")
    if type(media) is str:
        return media.partition(";")[0].strip().lower()
    return _AUDIO + audio.lower() if type(audio) is str else _UNKNOWN_TYPE


def _decoded(data: str) -> int:
    """Bytes that base64 text stands for."""
    return len(data) * 3 // 4


def _check(text: Text, media: str, size: int, rule: Attachments) -> None:
    if not matches(rule.types, media):
        raise _refusal(text, f"attachments of the type {_printable(media)} are not allowed here")
    if size > rule.largest:
        raise _refusal(text, f"an attachment may have {rule.largest} bytes, this one has about {size}")


def _printable(media: str) -> str:
    """A media type as it may stand in a message: the caller wrote it, and it may be anything."""
    name, slash, kind = media.partition("/")
    known = slash and all(part and len(part) <= 64 and part.replace("-", "").replace(".", "").replace("+", "").isalnum()
                          for part in (name, kind))  # fmt: skip
    return media if known else "that was given"


def _refusal(text: Text, reason: str) -> Rejection:
    path = show_path(text.path)
    return Rejection(
        400, ErrorCode.POLICY_ATTACHMENT_NOT_ALLOWED, f"{path}: {reason}.", param=path, detail="attachment"
    )
