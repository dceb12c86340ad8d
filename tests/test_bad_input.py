"""What nobody should send: each row gets its status, its code and the vendor's error shape, and nothing is forwarded."""

from __future__ import annotations

import json

import pytest

from bad_input_rows import ROWS, Row, credentials
from extproc.exchange.actions import Action, Answer, BodyMode, ContinueBody, ContinueHeaders, StreamBody
from extproc.exchange.effects import Caller, FindKey, FoundKey
from extproc.exchange.events import RequestBody, RequestHeaders
from extproc.exchange.setup import Modes
from gateway import play
from playbook import Playbook
from talk import headers

KEYS = {
    **{name: f"exk-{name}-" + "x" * 24 for name in ("valid", "other", "unknown", "expired", "revoked")},
    "vendor": "sk-" + "v" * 40,
}
DEMO = Caller("k1", "demo", "app")
STORE = {
    KEYS["valid"]: FoundKey(DEMO),
    KEYS["other"]: FoundKey(Caller("k2", "demo", "app")),
    KEYS["expired"]: FoundKey(DEMO, expired=True),
    KEYS["revoked"]: FoundKey(Caller("k1", "demo", "app", revoked=True)),
}
DUPLEX = Modes(BodyMode.FULL_DUPLEX_STREAMED, BodyMode.FULL_DUPLEX_STREAMED)
named = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)


def send(row: Row, talk: Playbook, pieces: int = 1) -> list[Action]:
    """Play the request; every action there was."""
    talk.answers = {FindKey: lambda effect: STORE.get(effect.secret, FoundKey(None))}
    fields = ((":method", row.method), (":path", row.path), (":authority", row.host))
    # Envoy says "end of stream" with the headers where the request has no body, or an empty one
    event = RequestHeaders(talk.at(), headers(*fields, *row.headers, *credentials(row, KEYS)), not row.body)
    actions = list(talk.tell(event))
    body = row.body or b""
    if event.end or any(isinstance(action, Answer) for action in actions):
        return actions
    size = max(1, -(-len(body) // pieces))
    for at in range(0, max(1, len(body)), size):
        piece = body[at : at + size]
        actions += talk.tell(RequestBody(talk.at(), piece, at + size >= len(body)))
    return actions


def check(row: Row, actions: list[Action], talk: Playbook) -> None:
    """One answer, in the vendor's shape; no word of the request goes on, nor does any key."""
    (answer,) = [action for action in actions if isinstance(action, Answer)]
    assert (row.status, row.code) == (answer.status, dict(answer.headers)["x-llm-error"])
    assert "application/json" == dict(answer.headers)["content-type"]
    body = json.loads(answer.body)
    if row.api == "anthropic":
        assert "error" == body["type"]
        assert {"type", "message"} == set(body["error"])
    else:
        assert {"message", "type", "param", "code"} == set(body["error"])
    assert 0 < len(body["error"]["message"]) < 600
    for action in actions:
        assert not isinstance(action, StreamBody)
        if isinstance(action, ContinueHeaders | ContinueBody):
            assert ContinueHeaders(request=True) == action, "a bare go-on, before the body was seen"
    record = talk.finish()
    assert ("refused", row.code, row.status) == (record.outcome, record.error, record.status)
    assert ("none", None) == (record.usage_source, record.usage)
    assert not any(key in repr((actions, record)) for key in KEYS.values())


@named
def test_bad_input_is_refused_in_the_vendors_shape(row):
    """As Envoy sends it: the body in one message."""
    talk = play()
    check(row, send(row, talk), talk)


@named
def test_bad_input_is_refused_alike_in_full_duplex(row):
    """The body in several messages."""
    talk = play(DUPLEX)
    check(row, send(row, talk, pieces=3), talk)


def test_every_row_has_its_own_name_and_both_vendors_are_there():
    """The table is at least 45 rows long."""
    assert len(ROWS) == len({row.id for row in ROWS})
    assert len(ROWS) >= 45
    assert {"openai", "anthropic"} == {row.api for row in ROWS}


def test_a_good_request_of_each_vendor_passes():
    """The table refuses for its reasons, not for another."""
    from bad_input_rows import CHAT, GOOD, MESSAGES

    for api, path in (("openai", CHAT), ("anthropic", MESSAGES)):
        actions = send(Row("good", 200, "", api, path=path, body=GOOD[api]), play())
        assert not any(isinstance(action, Answer) for action in actions)
        assert isinstance(actions[-1], ContinueBody)


def test_a_body_of_exactly_the_limit_passes():
    """One byte less than the row that is refused."""
    (row,) = [row for row in ROWS if row.id == "chat-one-byte-over-the-limit"]
    good = Row("at-the-limit", 200, "", body=row.body[:-1])

    assert not any(isinstance(action, Answer) for action in send(good, play()))
