"""The caller's key is nowhere but in the request: no action, record, metadata or representation holds it."""

from __future__ import annotations

import base64

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from extproc.exchange.actions import Answer
from extproc.exchange.effects import FindKey, FoundKey
from extproc.exchange.events import RequestHeaders
from gateway import play
from playbook import DEMO
from talk import CHAT_ANSWER, CHAT_STREAM, PROXY, headers

alphabet = st.characters(
    categories=(), include_characters="abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"
)
secrets = st.text(alphabet, min_size=24, max_size=40).map(lambda tail: "exk-" + tail)
places = st.sampled_from(
    ["authorization", "x-api-key", "api-key", "x-goog-api-key", "proxy", "basic", "query", "hidden"]
)
outcomes = st.sampled_from([FoundKey(DEMO), FoundKey(None), FoundKey(DEMO, expired=True)])


def request(place: str, secret: str) -> tuple[tuple[tuple[str, str], ...], str, dict[str, str]]:
    """(header fields, query, attributes) that carry the key."""
    if place == "proxy":
        return (), "", {PROXY: f"Bearer {secret}"}
    if place == "basic":
        return (), "", {PROXY: "Basic " + base64.b64encode(f"u:{secret}".encode()).decode()}
    if place == "query":
        return (), f"?a=1&key={secret}", {}
    if place == "hidden":
        return (), f"?%6bEy={secret}&a=1", {}
    return ((place, f"Bearer {secret}"),), "", {}


@given(secrets, places, outcomes, st.sampled_from([CHAT_STREAM, b"{", b'{"model":"smart","messages":[]}']))
def test_the_callers_key_is_in_nothing_that_leaves(secret, place, found, body):
    """Design invariant 3 for the one secret that is here."""
    talk = play()
    talk.answers = {**talk.answers, FindKey: lambda _: found}
    fields, query, attributes = request(place, secret)
    pseudo = ((":method", "POST"), (":path", "/v1/chat/completions" + query), (":authority", "api.openai.com"))
    seen: list[object] = [talk.tell(RequestHeaders(talk.at(), headers(*pseudo, *fields), False, attributes))]
    if not isinstance(seen[0][0], Answer):
        seen.append(talk.body(body))
        if not isinstance(seen[-1][0], Answer):
            seen += [talk.response(), talk.answer(CHAT_ANSWER)]
    record = talk.finish()
    everything = repr((seen, record, talk.effects, talk.exchange.facts, msgspec.structs.asdict(record)))

    assert [secret] == [effect.secret for effect in talk.effects if isinstance(effect, FindKey)]
    assert secret not in everything
    assert base64.b64encode(secret.encode()).decode()[:-4] not in everything


@given(secrets)
def test_a_key_sent_as_a_label_is_neither_believed_nor_written_down(secret):
    """It is no credential there."""
    talk = play()
    actions = talk.request("/v1/chat/completions", authorization="", x_llm_user=secret)

    assert isinstance(actions[0], Answer)
    assert ("x-llm-error", "caller_missing_key") in actions[0].headers
    assert secret not in repr((actions, talk.finish()))
