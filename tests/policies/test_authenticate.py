"""Who calls: every place for a key, precedence, and keys that are no longer good."""

from __future__ import annotations

import base64

import pytest

from extproc.errors import EffectError
from extproc.exchange.effects import Caller, FindKey, FoundKey
from extproc.policies.authenticate import bearer, proxy_secret
from gateway import play
from talk import CHAT, KEY, OTHER_KEY, PROXY, VENDOR_KEY, answered, begin, forwarded, refused

BEARER = ("authorization", f"Bearer {KEY}")


def basic(user: str, password: str = "") -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def looked_up(talk) -> list[str]:
    return [effect.secret for effect in talk.effects if isinstance(effect, FindKey)]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("authorization", f"Bearer {KEY}"),
        ("authorization", f"bearer   {KEY} "),
        ("authorization", KEY),
        ("x-api-key", KEY),
        ("api-key", KEY),
        ("x-goog-api-key", KEY),
        ("proxy-authorization", f"Bearer {KEY}"),
        ("proxy-authorization", basic("extproc", KEY)),
        ("proxy-authorization", basic(KEY)),
    ],
)
def test_a_key_is_found_wherever_an_sdk_puts_it_and_is_removed_there(name, value):
    """One lookup, one removal, and nothing of it anywhere else."""
    talk = play()
    assert not answered(begin(talk, (name, value)))
    out = forwarded(talk.body(CHAT))

    assert [KEY] == looked_up(talk)
    assert name in out.remove
    assert KEY not in repr(out)


@pytest.mark.parametrize("value", [f"Bearer {KEY}", basic("user", KEY), basic(KEY, "x"), basic(KEY)])
def test_the_credentials_of_a_connect_come_as_filter_state(value):
    """The CONNECT hop carries them to the inner listener."""
    talk = play()
    begin(talk, attributes={PROXY: value})

    assert forwarded(talk.body(CHAT)).metadata["llm"]["key_id"] == "k1"
    assert [KEY] == looked_up(talk)


def test_a_key_in_the_query_counts_too():
    """Where one vendor's SDK puts it."""
    talk = play()
    begin(talk, path=f"/v1/chat/completions?key={KEY}")

    assert forwarded(talk.body(CHAT)).set[":path"] == "/v1/chat/completions"


def test_ours_in_the_sdks_place_wins_over_the_proxys():
    """The nearer credential speaks."""
    talk = play()
    begin(talk, BEARER, ("proxy-authorization", f"Bearer {OTHER_KEY}"), attributes={PROXY: f"Bearer {OTHER_KEY}"})
    talk.body(CHAT)

    assert [KEY] == looked_up(talk)


@pytest.mark.parametrize(
    "second", [("x-api-key", OTHER_KEY), ("api-key", OTHER_KEY), ("authorization", f"Bearer {OTHER_KEY}")]
)
def test_two_of_ours_that_disagree_are_refused(second):
    """Whose call would it be?"""
    assert (401, "caller_conflicting_keys") == refused(begin(play(), BEARER, second))


def test_two_of_ours_that_disagree_by_header_and_query_are_refused():
    """The query is a place like the others."""
    path = f"/v1/chat/completions?key={OTHER_KEY}"

    assert (401, "caller_conflicting_keys") == refused(begin(play(), BEARER, path=path))


def test_the_same_key_twice_is_one_key():
    """Some clients send both headers."""
    talk = play()
    begin(talk, BEARER, ("x-api-key", KEY), ("authorization", f"Bearer {KEY}"))

    assert forwarded(talk.body(CHAT)).remove >= {"authorization", "x-api-key"}


@pytest.mark.parametrize("proxy", [f"Bearer {KEY}", basic("any", KEY)])
def test_a_vendor_key_beside_a_valid_proxy_credential_is_ignored(proxy):
    """An app that was not changed at all, behind HTTPS_PROXY with our key."""
    talk = play()
    begin(talk, ("authorization", f"Bearer {VENDOR_KEY}"), attributes={PROXY: proxy})
    out = forwarded(talk.body(CHAT))

    assert "authorization" in out.remove
    assert [KEY] == looked_up(talk)


@pytest.mark.parametrize("name", ["authorization", "x-api-key"])
def test_a_vendor_key_alone_is_401(name):
    """And the store is not even asked."""
    talk = play()

    assert (401, "caller_invalid_key") == refused(begin(talk, (name, f"Bearer {VENDOR_KEY}")))
    assert [] == looked_up(talk)


def test_a_bad_key_of_ours_is_not_saved_by_the_proxys():
    """The nearer credential speaks, also where it is wrong."""
    talk = play()
    talk.answers = {FindKey: lambda _: FoundKey(None)}

    assert (401, "caller_invalid_key") == refused(begin(talk, BEARER, attributes={PROXY: f"Bearer {OTHER_KEY}"}))
    assert [KEY] == looked_up(talk)


def test_a_vendor_key_in_the_proxys_place_is_no_credential():
    """Only ours count."""
    answer = refused(begin(play(), attributes={PROXY: f"Bearer {VENDOR_KEY}"}))

    assert (401, "caller_missing_key") == answer


@pytest.mark.parametrize(
    "fields",
    [
        (),
        (("authorization", ""),),
        (("authorization", "Bearer"),),
        (("authorization", "Bearer "),),
        (("proxy-authorization", "Basic !!!"),),
        (("proxy-authorization", "Basic " + base64.b64encode(b"\xff\xfe").decode()),),
        (("proxy-authorization", "Negotiate " + KEY),),
    ],
)
def test_without_a_key_there_is_no_call(fields):
    """Deny by default."""
    assert (401, "caller_missing_key") == refused(begin(play(), *fields))


@pytest.mark.parametrize(
    ("found", "code"),
    [
        (FoundKey(None), "caller_invalid_key"),
        (FoundKey(Caller("k", "demo", "app"), expired=True), "caller_expired_key"),
        (FoundKey(Caller("k", "demo", "app", revoked=True)), "caller_revoked_key"),
        (FoundKey(Caller("k", "demo", "app", revoked=True), expired=True), "caller_revoked_key"),
    ],
)
def test_keys_that_are_unknown_expired_or_revoked_are_401(found, code):
    """Each says which it is."""
    talk = play()
    talk.answers = {FindKey: lambda _: found}

    assert (401, code) == refused(begin(talk, BEARER))
    record = talk.finish()
    assert ("refused", code, "none") == (record.outcome, record.error, record.usage_source)


def test_a_store_that_is_away_fails_closed():
    """The effect's error leaves the exchange; what the host then sends is a refusal."""
    talk = play()
    talk.answers = {FindKey: lambda _: EffectError("away")}
    with pytest.raises(EffectError):
        begin(talk, BEARER)

    assert (500, "gateway_error") == refused(talk.exchange.fail())
    assert () == talk.body(CHAT)


@pytest.mark.parametrize(
    ("value", "token"),
    [
        ("Bearer a", "a"),
        ("BEARER  a ", "a"),
        ("a", "a"),
        ("", ""),
        ("Bearer ", ""),
        ("Basic a", ""),
        ("Bearer a b", "a b"),
    ],
)
def test_bearer_tokens(value, token):
    """RFC 6750, and the bare value that some headers hold."""
    assert token == bearer(value)


def test_proxy_secrets_are_ours_or_nothing():
    """A password that is not ours is not a key."""
    assert "" == proxy_secret(basic("user", "password"))
    assert KEY == proxy_secret(basic("user", KEY))
    assert "" == proxy_secret("Digest x")
