"""What was called: host or base URL, path, method, and what of it goes on."""

from __future__ import annotations

import pytest

from extproc.exchange.actions import BodyMode, ContinueBody, ContinueHeaders, Reset, StreamBody
from extproc.exchange.setup import Modes
from extproc.policies.endpoint import plain, without_keys
from gateway import play
from talk import CHAT, KEY, NARROW, begin, call, claude, forwarded, refused

OPEN = {"p_authority": "open.example"}
UPLOAD = {**OPEN, "content_type": "multipart/form-data; boundary=b"}
DUPLEX = Modes(BodyMode.FULL_DUPLEX_STREAMED, BodyMode.FULL_DUPLEX_STREAMED)


def test_a_known_host_is_its_provider_and_the_path_stays():
    """Nothing about the path needs to change, so it is not mutated."""
    talk = play()
    out = forwarded(call(talk))

    assert ":path" not in out.set
    assert ("openai", "openai_chat") == (out.metadata["llm"]["provider"], out.metadata["llm"]["endpoint"])


def test_a_port_and_the_case_of_the_host_do_not_matter():
    """Host names are case-insensitive."""
    assert forwarded(call(play(), p_authority="API.OpenAI.com:443")).metadata["llm"]["provider"] == "openai"


def test_a_base_url_names_the_provider_by_its_first_segment():
    """The vendor sees its own path."""
    out = forwarded(call(play(), path="/openai_b/v1/chat/completions", p_authority="localhost:8080"))

    assert "/v1/chat/completions" == out.set[":path"]
    assert "openai_b" == out.metadata["llm"]["provider"]


def test_a_bare_base_url_is_the_first_provider_of_the_api_that_is_spoken():
    """The SDK's own path says which."""
    assert forwarded(call(play(), p_authority="localhost")).metadata["llm"]["provider"] == "openai"
    assert forwarded(claude(play(), p_authority="localhost")).metadata["llm"]["provider"] == "anthropic"


def test_an_unknown_path_is_refused_by_default():
    """It would pass uninspected."""
    for path in ("/v1/files", "/v1/images/generations", "/", "/v1/chat/completions/", "/v1/messages"):
        assert (404, "caller_unknown_path") == refused(play().request(path))


def test_the_refusal_of_a_long_path_is_short():
    """An error does not repeat 50 KB to the caller, nor to the log."""
    talk = play()
    talk.request("/v1/" + "x" * 50_000)

    assert len(talk.finish().error_detail) < 500


def test_a_known_path_with_another_method_is_405():
    """The message names the right one."""
    talk = play()
    assert (405, "caller_method_not_allowed") == refused(talk.request(p_method="PUT"))
    assert "use POST" in talk.finish().error_detail


def test_a_multipart_upload_follows_the_rule_of_unknown_paths():
    """Refused where it cannot be read; on a provider that is set to pass it, it is passed."""
    assert (404, "caller_unknown_path") == refused(play().request("/v1/files", **{**UPLOAD, "p_authority": ""}))

    talk = play()
    (head,) = talk.request("/v1/files", **UPLOAD)
    assert isinstance(head, ContinueHeaders)
    assert head.body_mode is BodyMode.STREAMED
    assert (ContinueBody(request=True),) == talk.body(b"--b\r\n", end=False)
    assert (ContinueBody(request=True),) == talk.body(b"\xff\x00--b--\r\n")


def test_passthrough_is_streamed_both_ways_and_counted_by_bytes():
    """Unread, and on record."""
    talk = play()
    out = forwarded(talk.request("/v1/files", **UPLOAD))
    talk.body(b"a" * 7, end=False)
    talk.body(b"b" * 3)
    (head,) = talk.response(content_type="application/octet-stream")
    assert head.body_mode is BodyMode.STREAMED
    assert (ContinueBody(request=False),) == talk.answer(b"12345", end=False)
    talk.answer(b"678")
    record = talk.finish()

    assert "unread" == out.metadata["llm"]["endpoint"]
    assert (10, 8) == (record.bytes_in, record.bytes_out)
    assert ("unread", None, "ok", "demo") == (record.usage_source, record.usage, record.outcome, record.team)


def test_passthrough_is_authenticated_authorised_and_scrubbed():
    """Unread is not unguarded."""
    assert (401, "caller_missing_key") == refused(play().request("/v1/files", **OPEN, authorization=""))
    assert (403, "policy_endpoint_not_allowed") == refused(play(caller=NARROW).request("/v1/files", **OPEN))
    assert "authorization" in forwarded(play().request("/v1/files", **OPEN)).remove


def test_a_passthrough_that_is_hung_up_on_is_still_unread_rather_than_unused():
    """The provider got it."""
    talk = play()
    talk.request("/v1/files", **UPLOAD)
    talk.body(b"abc", end=False)
    record = talk.finish()

    assert ("unread", "cut_short", 3) == (record.usage_source, record.outcome, record.bytes_in)


def test_another_spelling_of_a_path_that_is_read_does_not_pass_unread():
    """A passthrough provider is no way around the reading of the calls that cost."""
    for path in (
        "/v1/chat/completions/",
        "//v1/chat/completions",
        "/v1//chat/completions",
        "/v1/%63hat/completions",
        "/v1/%2563hat/completions",
        "/V1/Chat/Completions",
        "/v1/x/../chat/completions",
        "/v1/chat/./completions",
        "/v1/chat/completions;a=b",
        "/v1\\chat\\completions",
    ):
        assert (404, "caller_unknown_path") == refused(play().request(path, **OPEN)), path


def test_other_methods_of_a_known_path_pass_a_passthrough_provider():
    """`GET /v1/chat/completions` lists stored answers: nothing is generated."""
    out = forwarded(play().request("/v1/chat/completions", end=True, **OPEN))

    assert "unread" == out.metadata["llm"]["endpoint"]


def test_passthrough_works_in_full_duplex_without_a_mode_override():
    """The mode of a full-duplex stream must not be changed under way."""
    talk = play(DUPLEX)
    (head,) = talk.request("/v1/files", **UPLOAD)
    assert head.body_mode is None
    assert (StreamBody(request=True, data=b"ab", end=False),) == talk.body(b"ab", end=False)
    assert (StreamBody(request=True, data=b"c", end=True),) == talk.body(b"c")
    talk.response()
    (last,) = talk.answer(b"x")
    assert (b"x", True) == (last.data, last.end)


def test_an_answer_that_outgrows_the_cap_of_a_passthrough_is_cut():
    """There is no polite end for bytes that nobody reads."""
    talk = play()
    talk.request("/v1/files", **UPLOAD)
    talk.body(b"x")
    talk.response()
    actions = talk.answer(b"x" * (2 << 20), end=False)
    assert not any(isinstance(action, Reset) for action in actions)
    (last,) = talk.answer(b"x", end=False)

    assert isinstance(last, Reset)
    assert "provider_response_too_large" == talk.finish().error


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("/v1/m", "/v1/m"),
        ("/v1/m?beta=true", "/v1/m?beta=true"),
        ("/v1/m?key=secret", "/v1/m"),
        ("/v1/m?a=1&KEY=secret&b=%20+%c3", "/v1/m?a=1&b=%20+%c3"),
        ("/v1/m?%6bey=secret&a=1", "/v1/m?a=1"),
        ("/v1/m?api%5Fkey=secret", "/v1/m"),
        ("/v1/m?access_token=s&key=", "/v1/m"),
        ("/v1/m?monkey=1&keys=2", "/v1/m?monkey=1&keys=2"),
        ("/v1/m?", "/v1/m?"),
        ("/v1/m?a=exk-secret&b=1", "/v1/m?b=1"),
        ("/v1/m?a=e%78k-secret", "/v1/m"),
    ],
)
def test_query_parameters_that_carry_keys_go_and_the_others_stay_byte_for_byte(before, after):
    """Also where their names are percent-encoded, which is how authentication reads them."""
    assert after == without_keys(before)


def test_a_path_without_keys_is_the_same_object():
    """No mutation where nothing changed."""
    path = "/v1/m?beta=true"

    assert without_keys(path) is path


def test_a_key_in_the_query_does_not_go_on():
    """The vendor sees the rest of the query."""
    talk = play()
    begin(talk, path=f"/v1/chat/completions?a=1&%6Bey={KEY}")
    out = forwarded(talk.body(CHAT))

    assert "/v1/chat/completions?a=1" == out.set[":path"]


def test_plain_paths_are_their_own_plain_form():
    """The comparison is against the registry's own spelling."""
    assert "/v1/chat/completions" == plain("/v1/chat/completions")
    assert "/" == plain("/../..")


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "identity, gzip"])
def test_a_compressed_request_is_415(encoding):
    """It could not be read."""
    assert (415, "caller_unsupported_encoding") == refused(play().request(content_encoding=encoding))


def test_identity_is_no_encoding():
    """Nor is an absent one."""
    assert forwarded(call(play(), content_encoding="identity")).body is None


@pytest.mark.parametrize("media", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "json"])
def test_a_body_that_is_not_json_is_415(media):
    """On the paths that are read."""
    assert (415, "caller_unsupported_media_type") == refused(play().request(content_type=media))


def test_json_with_parameters_or_none_at_all_is_read():
    """Clients differ in how they say it."""
    for media in ("application/json; charset=utf-8", "Application/JSON", "application/vnd.x+json", ""):
        assert forwarded(call(play(), content_type=media)).body is None


def test_a_request_without_a_body_on_a_path_that_needs_one_is_400():
    """Nothing to read, nothing to send."""
    assert (400, "caller_malformed_body") == refused(play().request(end=True, p_method="POST"))
