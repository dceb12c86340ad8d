"""Links and inline files in a request: nobody looks into them, so their type and size are what a policy can go by."""

from __future__ import annotations

import re
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
_CHARSET: Final = re.compile(r"charset=[a-z0-9._:-]{1,40}")
_BASE64: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/\r\n"  # RFC 4648, 2045
# Files that are texts: only a pattern that means them lets them pass
_TEXTUAL: Final = re.compile(r"text/.*|.*\+xml|.*/xml|.*\+json|application/(?:json|.*javascript)")
_ANY: Final = frozenset({"*", "*/*", "image/*", "application/*"})

Sibling = Callable[[str], object]
"""The value of another field of the object that a text is in; None where there is none."""


def link(text: Text, sibling: Sibling, rule: Attachments) -> str | None:
    """The link that `text` (of kind `url`) is, to be scanned as a text; None for an inline file that may pass.

    Raises `Rejection` (400) for a type, a size or a link that is not allowed, and for texts in the place of files: other
    parameters of a data URL than `charset` and `base64`, data that is not in base64, and files that are texts themselves
    (SVG, CSV, JSON), unless a pattern means just their type. Data URLs: RFC 2397.
    """
    value = text.value
    if value[: len(_SCHEME)].lower() == _SCHEME:
        head, _, data = value[len(_SCHEME) :].partition(",")
        media, *parameters = (one.strip() for one in head.lower().split(";"))
        coded = "base64" in parameters
        if any(one != "base64" and not _CHARSET.fullmatch(one) for one in parameters):
            raise _refusal(text, "a data URL may have no parameters but charset and base64")
        _check(text, media or _DEFAULT_TYPE, _decoded(text, data) if coded else len(data), rule)
        if not coded and not _meant(media or _DEFAULT_TYPE, rule):
            raise _refusal(text, "a data URL must be in base64, unless its very type is allowed here")
        return None
    if text.path[-1] in _INLINE:
        _check(text, _stated_type(sibling), _decoded(text, value), rule)
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


def _decoded(text: Text, data: str) -> int:
    """Bytes that base64 data (letters, digits, `+`, `/`, line breaks, `=`) stands for.

    Raises `Rejection` (400) for what is something else: nobody looks into it.
    """
    if not data.isascii() or data.rstrip("=\r\n").encode().translate(None, _BASE64):
        raise _refusal(text, "an inline file must be in base64")
    return len(data) * 3 // 4


def _meant(media: str, rule: Attachments) -> bool:
    """Whether a pattern allows just this type, not whatever comes."""
    return matches(tuple(one for one in rule.types if one not in _ANY), media)


def _check(text: Text, media: str, size: int, rule: Attachments) -> None:
    if not matches(rule.types, media):
        raise _refusal(text, f"attachments of the type {_printable(media)} are not allowed here")
    if _TEXTUAL.fullmatch(media) and not _meant(media, rule):
        raise _refusal(text, "attachments that are texts are not allowed here, unless their very type is")
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
