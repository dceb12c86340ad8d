"""Types, sizes and links of what is attached."""

from __future__ import annotations

import pytest

from extproc.dialects.dialect import Text
from extproc.errors import Rejection
from extproc.policies.attachments import link
from extproc.policies.profiles import Attachments

RULE = Attachments(("image/*", "application/pdf"), 12, links=True)
URL = ("messages", 0, "content", 0, "image_url", "url")


def given(value: str, path=URL, rule: Attachments = RULE, **fields: object) -> str | None:
    return link(Text(path, "url", value), fields.get, rule)


def test_a_link_is_a_text_to_scan():
    """It may hold an address in its query."""
    assert "https://x.io/?m=ann@x.io" == given("https://x.io/?m=ann@x.io")


@pytest.mark.parametrize(
    "value",
    [
        "data:image/png;base64,AAAAAAAAAAAAAAAA",
        "DATA:image/PNG;base64,AAAA",
        "data:image/png; charset=UTF-8 ;base64,AAA=",
        "data:image/jpeg;base64,AA\r\nAA==",
        "data:application/pdf,abc",
    ],
)
def test_an_inline_file_that_may_go(value: str):
    """RFC 2397, any case; it is not scanned."""
    assert given(value) is None


@pytest.mark.parametrize(
    ("value", "fields"),
    [
        ("data:text/html;base64,AAAA", {}),
        ("data:,hello", {}),
        ("data:image/png;base64," + "A" * 20, {}),
        ("AAAA", {"path": ("x", "source", "data"), "media_type": "text/csv"}),
        ("AAAA", {"path": ("x", "source", "data")}),
        ("AAAA", {"path": ("x", "input_audio", "data"), "format": "wav"}),
        ("AAAA" * 10, {"path": ("x", "source", "data"), "media_type": "image/png"}),
        ("https://x.io", {"rule": Attachments(("*",), 5, links=False)}),
        ("data:image/png,AAAA", {}),
        ("data:image/png;name=AAAA;base64,AAAA", {}),
        ("data:image/png;charset=A A@AAAA;base64,AAAA", {}),
        ("data:image/png;base64,AAAA-AA_", {}),
        ("data:image/png;base64,AA=AA", {}),
        ("data:image/svg+xml,<AAAA/>", {}),
        ("data:image/svg+xml;base64,AAAA", {}),
        ("data:text/plain;base64,AAAA", {"rule": Attachments(("*",), 50, links=True)}),
        ("data:application/json;base64,AAAA", {"rule": Attachments(("*/*", "application/*"), 50, links=True)}),
        ("AAAA@A", {"path": ("x", "source", "data"), "media_type": "image/png"}),
        ("AAAA 536-22", {"path": ("x", "source", "data"), "media_type": "image/png"}),
        ("AAAA\u00e9", {"path": ("x", "source", "data"), "media_type": "image/png"}),
    ],
)
def test_what_may_not_go_is_refused_with_its_place(value: str, fields: dict):
    """The message holds no part of the value."""
    with pytest.raises(Rejection) as caught:
        given(value, **fields)

    assert 400 == caught.value.status
    assert "policy_attachment_not_allowed" == caught.value.code
    assert caught.value.message.startswith(caught.value.param)
    assert "AAAA" not in caught.value.message


def test_inline_data_with_its_type_beside_it():
    """Anthropic's `media_type`, OpenAI's audio `format`."""
    assert given("AAAA", ("x", "source", "data"), media_type="image/jpeg") is None
    assert (
        given("AAAA", ("x", "input_audio", "data"), rule=Attachments(("audio/*",), 9, links=True), format="wav") is None
    )


@pytest.mark.parametrize("value", ["data:image/svg+xml,<svg/>", "data:text/csv;base64,AAAA", "data:,a"])
def test_texts_pass_where_their_type_is_meant(value: str):
    """A pattern for all images, or for everything, does not mean them: nobody can look into them, and they are texts."""
    assert given(value, rule=Attachments(("image/*", "image/svg+xml", "text/*"), 50, links=True)) is None
    with pytest.raises(Rejection, match="text"):
        given(value, rule=Attachments(("*",), 50, links=True))


def test_a_strange_type_is_not_repeated():
    """The caller wrote it."""
    with pytest.raises(Rejection) as caught:
        given("data:ann@x.io/<b>,x")

    assert "ann@x.io" not in caught.value.message
