"""The conversation with Envoy of a gateway that redacts: what goes on, what comes back, what is on record."""

from __future__ import annotations

import json
from itertools import pairwise

import msgspec
import pytest

from extproc.errors import BudgetExceededError, EffectError
from extproc.exchange.actions import BodyMode, ContinueBody, ContinueHeaders
from extproc.exchange.effects import Caller, FindEntities
from redacting import find, redacting
from talk import SSE, answered, call, claude, forwarded, refused

STANDARD = "  profiles:\n    standard: {}\n"
MAIL = "Mail ann@x.io for Ann Bo."


def chat(*contents: str, **fields: object) -> bytes:
    messages = [{"role": "user", "content": content} for content in contents]
    return json.dumps({"model": "gpt-4o-mini", "messages": messages, **fields}, ensure_ascii=False).encode()


def answer(book, content: str | None = None, **message: object) -> bytes:
    """A whole JSON answer; the body as the caller gets it."""
    message = {"role": "assistant", "content": content, **message}
    body = json.dumps({"model": "m", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}).encode()
    book.response(content_length=str(len(body)))
    (out,) = book.answer(body)
    return body if out.data is None else out.data


def event(content: str | None, finish: str | None = None) -> bytes:
    delta = {} if content is None else {"content": content}
    return (
        b"data: " + json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}).encode() + b"\n\n"
    )


def stream(book, *pieces: bytes) -> bytes:
    """A streamed answer; the bytes as the caller gets them."""
    book.response(content_type=SSE)
    out = b""
    for number, piece in enumerate(pieces, 1):
        (action,) = book.answer(piece, end=number == len(pieces))
        assert isinstance(action, ContinueBody)
        out += piece if action.data is None else action.data
    return out


def texts(body: bytes) -> str:
    """All deltas of a stream."""
    found = [json.loads(line[6:]) for line in body.split(b"\n\n") if line.startswith(b"data: {")]
    return "".join(one["choices"][0]["delta"].get("content") or "" for one in found if "choices" in one)


def test_without_a_section_nothing_is_looked_at():
    """No effect, no record of one."""
    from gateway import play

    book = play()
    call(book, chat(MAIL))

    assert not [effect for effect in book.effects if isinstance(effect, FindEntities)]
    assert book.finish().redaction is None


def test_what_is_found_goes_out_as_placeholders_and_comes_back():
    """Only the edited strings differ; the record counts kinds and operators."""
    book = redacting(STANDARD)
    body = chat("hello", MAIL)
    out = forwarded(call(book, body))

    assert body.replace(b"ann@x.io", b"<EMAIL_ADDRESS_1>").replace(b"Ann Bo", b"<PERSON_1>") == out.body
    assert str(len(out.body)) == out.set["content-length"]
    assert 2 == out.metadata["llm"]["redacted"]
    assert b"I told Ann Bo." in answer(book, "I told <PERSON_1>.")
    record = book.finish()
    assert record.redaction is not None
    assert {("EMAIL_ADDRESS", "pseudonym", 1), ("PERSON", "pseudonym", 1)} == set(record.redaction.entities)
    assert 1 == record.redaction.restored


def test_a_call_without_anything_to_find_is_untouched():
    """Both ways: not one byte, and no editor."""
    book = redacting(STANDARD)

    assert forwarded(call(book, chat("hello"))).body is None
    assert b"say <PERSON_1>" in answer(book, "say <PERSON_1>")


@pytest.mark.parametrize("cut", [1, 2, 7, 1000])
def test_a_stream_comes_back_whatever_the_cut(cut: int):
    """The placeholder is split over deltas and messages."""
    book = redacting(STANDARD)
    call(book, chat(MAIL, stream=True))
    told = "To <EMAIL_ADDRESS_1>, <PERSON_1> < <PERSON_2>"
    raw = (
        b"".join(event(told[at : at + 3]) for at in range(0, len(told), 3)) + event(None, "stop") + b"data: [DONE]\n\n"
    )
    pieces = [raw[at : at + cut] for at in range(0, len(raw), cut)]

    assert "To ann@x.io, Ann Bo < <PERSON_2>" == texts(stream(book, *pieces))


def test_tool_arguments_are_edited_as_the_document_they_are():
    """Valid JSON before and after, keys untouched; restored values are escaped."""
    book = redacting(STANDARD)
    name = 'Zo\\ "Q" O\'Neil'
    arguments = json.dumps({"ann@x.io": {"to": [name, 5]}})
    body = json.dumps(
        {
            "model": "gpt-4o-mini",
            "messages": [
                {
                    "role": "assistant",
                    "tool_calls": [
                        {"id": "c", "type": "function", "function": {"name": "send", "arguments": arguments}}
                    ],
                }
            ],
        }
    ).encode()
    sent = json.loads(forwarded(call(book, body)).body)["messages"][0]["tool_calls"][0]["function"]["arguments"]

    assert {"ann@x.io": {"to": ["<PERSON_1>", 5]}} == json.loads(sent)
    calls = [{"id": "d", "type": "function", "function": {"name": "send", "arguments": '{"to":"<PERSON_1>"}'}}]
    got = json.loads(answer(book, None, tool_calls=calls))["choices"][0]["message"]["tool_calls"][0]["function"]
    assert {"to": name} == json.loads(got["arguments"])


def test_keys_of_arguments_are_looked_at_where_asked():
    """`argument_keys`."""
    book = redacting("  profiles:\n    standard: {argument_keys: true}\n")
    content = [{"type": "tool_use", "id": "t", "name": "send", "input": {"ann@x.io": "Ann Bo"}}]
    body = json.dumps(
        {"model": "claude-haiku-4-5", "max_tokens": 5, "messages": [{"role": "assistant", "content": content}]}
    ).encode()

    sent = json.loads(forwarded(claude(book, body)).body)["messages"][0]["content"][0]["input"]
    assert {"<EMAIL_ADDRESS_1>": "<PERSON_1>"} == sent or {"<EMAIL_ADDRESS_1>", "<PERSON_1>"} == {*sent, *sent.values()}


def test_identifiers_take_the_bare_form():
    """A tool's name may hold no brackets; people are not looked for in one."""
    book = redacting(STANDARD)
    tools = [{"type": "function", "function": {"name": "key-abcd", "description": "for Ann Bo"}}]
    sent = json.loads(forwarded(call(book, chat("x", tools=tools))).body)["tools"][0]["function"]

    assert "<PERSON_1>" in sent["description"]
    assert set("<>").isdisjoint(sent["name"])
    assert "key-abcd" != sent["name"]
    kinds = [effect.scanner.version.rstrip() for effect in book.effects if isinstance(effect, FindEntities)]
    assert [b"texts", b"identifiers"] == kinds


def test_block_names_kinds_and_the_place_and_nothing_else():
    """400 in the caller's dialect; nothing went on."""
    book = redacting("  profiles:\n    standard: {entities: {US_SSN: block}}\n")
    actions = call(book, chat("fine", "my number is 123-45-6789"))

    assert (400, "policy_content_blocked") == refused(actions)
    shown = answered(actions).body.decode()
    assert "US_SSN" in shown
    assert "messages[1].content" in shown
    assert "123-45" not in shown
    assert ("US_SSN",) == book.finish().redaction.blocked


def test_shadow_mode_counts_and_changes_nothing():
    """Not even what would be blocked."""
    book = redacting("  profiles:\n    standard: {mode: shadow, entities: {US_SSN: block}}\n")

    assert forwarded(call(book, chat(MAIL, "123-45-6789"))).body is None
    redaction = book.finish().redaction
    assert "shadow" == redaction.mode
    assert {"EMAIL_ADDRESS", "PERSON", "US_SSN"} == {kind for kind, _, _ in redaction.entities}
    assert () == redaction.blocked


@pytest.mark.parametrize(
    ("error", "setting", "failed"),
    [(BudgetExceededError("late"), "on_budget", "budget"), (EffectError("broken"), "on_error", "error")],
)
def test_what_cannot_be_inspected_does_not_go_out(error: EffectError, setting: str, failed: str):
    """Unless the profile says so; then the answer and the record say so too."""
    strict = redacting(STANDARD)
    strict.answers = {**strict.answers, FindEntities: lambda _: error}
    assert (503, "gateway_inspection_failed") == refused(call(strict, chat(MAIL)))
    assert failed == strict.finish().redaction.failed

    lax = redacting(f"  profiles:\n    standard: {{{setting}: forward}}\n")
    lax.answers = {**lax.answers, FindEntities: lambda _: error}
    assert forwarded(call(lax, chat(MAIL))).body is None
    (head,) = lax.response(content_length="2")
    assert isinstance(head, ContinueHeaders)
    assert ("x-llm-redaction", "skipped") in head.change.set
    assert failed == lax.finish().redaction.failed


def test_stored_history_is_refused_or_keyed():
    """Numbers of this request would mean other values there."""
    body = json.dumps({"model": "gpt-4o", "input": MAIL, "previous_response_id": "resp_1"}).encode()
    refusing = redacting(STANDARD)
    assert (400, "policy_stored_history") == refused(call(refusing, body, "/v1/responses"))

    section = "  profiles:\n    standard: {stored_history: keyed}\n"
    sent = [forwarded(call(redacting(section), body, "/v1/responses")).body for _ in range(2)]
    other = Caller(key_id="k9", team="demo", app="app", tenant="other")
    assert sent[0] == sent[1]
    assert b"<EMAIL_ADDRESS_1>" not in sent[0]
    assert b"ann@x.io" not in sent[0]
    assert sent[0] != forwarded(call(redacting(section, caller=other), body, "/v1/responses")).body


def test_a_growing_chat_has_the_same_beginning_each_time():
    """Also when a later turn says what looks like a placeholder."""
    turns = [MAIL, "<PERSON_1> is not <PERSON_2>", "李雷 and Ann Bo", "123-45-6789 <LITERAL_1>"]
    sent = [
        forwarded(call(redacting(STANDARD), chat(*turns[:count]))).body or chat(*turns[:count])
        for count in (1, 2, 3, 4)
    ]

    for shorter, longer in pairwise(sent):
        assert longer.startswith(shorter[: -len(b"]}")])


def test_a_literal_placeholder_is_not_turned_into_someone():
    """Typed before or after the value that would have had it."""
    book = redacting(STANDARD)
    sent = forwarded(call(book, chat("what is <PERSON_1>?", "Ann Bo", "and <PERSON_2>"))).body

    assert b"what is <PERSON_1>?" in sent
    assert b"<PERSON_2>" in sent
    got = json.loads(answer(book, "<PERSON_1> / <PERSON_2> / <LITERAL_1>"))["choices"][0]["message"]["content"]
    assert "<PERSON_1> / Ann Bo / <PERSON_2>" == got


def test_the_model_is_looked_at_where_asked():
    """Masked in a JSON answer; what the caller sent comes back unmasked."""
    book = redacting("  profiles:\n    standard: {output: {scan: mask}}\n", answers=True)
    call(book, chat("Ann Bo"))

    told = json.loads(answer(book, "ask bob@x.io or <PERSON_1>"))["choices"][0]["message"]["content"]
    assert "ask ******** or Ann Bo" == told


def test_a_blocked_answer_ends_its_stream_politely():
    """What came before goes on, then an event of the vendor's shape; then the provider is cut."""
    book = redacting("  profiles:\n    standard: {output: {scan: block}}\n", answers=True)
    call(book, chat("x", stream=True))
    book.response(content_type=SSE)
    out = b""
    filler = "all is well and nothing is said here, word after word. "
    for piece in [event(filler)] * 12 + [event("write bob@x.io ")] + [event(filler)] * 12:
        (action,) = book.answer(piece, end=False)
        if not isinstance(action, ContinueBody):
            break
        out += piece if action.data is None else action.data

    assert b"bob@x.io" not in out
    assert filler in texts(out)
    assert b'"error"' in out
    assert "policy_content_blocked" == book.finish().error


def test_an_answer_of_unknown_length_is_edited_too():
    """Chunked JSON: held, edited at its end."""
    book = redacting(STANDARD)
    call(book, chat("Ann Bo"))
    (head,) = book.response()
    assert BodyMode.STREAMED is head.body_mode
    body = json.dumps({"choices": [{"index": 0, "message": {"role": "assistant", "content": "<PERSON_1>"}}]}).encode()
    out = b"".join(book.answer(body[at : at + 5], end=False)[0].data or b"" for at in range(0, len(body), 5))
    (last,) = book.answer(b"", end=True)

    assert b"Ann Bo" in out + (last.data or b"")
    assert b"<PERSON_1>" not in out + (last.data or b"")


def test_what_nobody_reads_does_not_go_out_where_a_profile_applies():
    """An unknown path that is passed through elsewhere."""
    book = redacting(STANDARD)
    assert (403, "policy_endpoint_not_allowed") == refused(call(book, b"{}", "/v1/files", p_authority="open.example"))

    none = redacting("  rules: [{provider: open, profile: none}]\n" + STANDARD)
    assert isinstance(none.request("/v1/files", p_authority="open.example")[0], ContinueHeaders)


def test_token_ids_cannot_be_read_and_do_not_go_out():
    """Embeddings as some clients send them; texts go."""
    book = redacting(STANDARD)
    ids = b'{"model":"text-embedding-3-small","input":[[15339,1917]]}'
    actions = call(book, ids, "/v1/embeddings")

    assert (400, "caller_invalid_field") == refused(actions)
    assert b"token ids" in answered(actions).body
    sent = forwarded(call(redacting(STANDARD), b'{"model":"m","input":["Ann Bo"]}', "/v1/embeddings")).body
    assert b'{"model":"m","input":["<PERSON_1>"]}' == sent


def thinking(text: str, *contents: str) -> bytes:
    block = {"type": "thinking", "thinking": text, "signature": "c2ln"}
    messages = [{"role": "user", "content": one} for one in contents]
    messages.append({"role": "assistant", "content": [block]})
    return json.dumps({"model": "claude-haiku-4-5", "max_tokens": 5, "messages": messages}).encode()


def test_signed_thinking_stays_as_the_vendor_wrote_it():
    """Placeholders and names of its own; it is counted."""
    book = redacting(STANDARD)
    body = thinking("<PERSON_1> may know 123-45-6789", "Ann Bo")

    assert body.replace(b"Ann Bo", b"<PERSON_1>") == forwarded(claude(book, body)).body
    assert ("US_SSN", "signed", 1) in book.finish().redaction.entities


@pytest.mark.parametrize("text", ["I wrote to ann@x.io", "the key is key-abcd"])
def test_signed_thinking_that_the_vendor_cannot_have_written_is_refused(text: str):
    """It holds a value that the vendor only knows the placeholder of, or a secret."""
    book = redacting(STANDARD)
    actions = claude(book, thinking(text, "Ann Bo, ann@x.io"))

    assert (400, "policy_content_blocked") == refused(actions)
    assert b"messages[1].content[0].thinking" in answered(actions).body


def test_a_key_that_was_restored_does_not_go_out_in_clear():
    """The model wrote a placeholder as a key; the next turn brings the original back."""
    book = redacting(STANDARD)
    calls = [
        {
            "id": "c",
            "type": "function",
            "function": {"name": "f", "arguments": '{"Ann Bo": 1, "card": 4111111111111111}'},
        }
    ]
    tool = {"role": "assistant", "tool_calls": calls}
    body = json.dumps({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Ann Bo"}, tool]}).encode()
    sent = json.loads(forwarded(call(book, body)).body)["messages"][1]["tool_calls"][0]["function"]["arguments"]

    assert {"<PERSON_1>": 1, "card": 4111111111111111} == json.loads(sent)


def test_credentials_of_remote_tools_go_to_the_vendor_that_uses_them():
    """They are given to it for that."""
    book = redacting(STANDARD)
    tools = [
        {"type": "mcp", "server_label": "x", "server_url": "https://x.io", "headers": {"Authorization": "key-abcd"}}
    ]
    body = json.dumps({"model": "gpt-4o-mini", "input": "hi", "tools": tools}).encode()

    assert forwarded(call(book, body, "/v1/responses")).body is None


def test_a_file_keeps_its_ending():
    """Vendors tell types by it; restored by the whole name."""
    book = redacting(STANDARD)
    part = {"type": "file", "file": {"filename": "cv Ann Bo.pdf", "file_data": "data:application/pdf;base64,AAAA"}}
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": [part]}]}).encode()

    assert b'"PERSON_1.pdf"' in forwarded(call(book, body)).body


def test_json_in_a_text_is_looked_at_as_it_reads():
    """What tools return: escapes are no part of a value, and the document stays one."""
    book = redacting(STANDARD)
    record = {"body": "Record:\n123-45-6789\nEnd", "who": "李雷", "deep": [{"mail": "ann@x.io"}]}
    body = json.dumps(
        {"model": "m", "messages": [{"role": "tool", "tool_call_id": "c", "content": json.dumps(record)}]}
    )
    sent = json.loads(forwarded(call(book, body.encode())).body)["messages"][0]["content"]

    expected = {"body": "Record:\n<US_SSN_1>\nEnd", "who": "<PERSON_1>", "deep": [{"mail": "<EMAIL_ADDRESS_1>"}]}
    assert expected == json.loads(sent)
    effect = next(effect for effect in book.effects if isinstance(effect, FindEntities))
    assert '"who": "李雷"' in effect.texts[0]


def test_a_value_in_arguments_is_looked_at_with_its_name():
    """What is beside it tells what it is; only the value is edited."""
    book = redacting(STANDARD)
    content = [{"type": "tool_use", "id": "t", "name": "send", "input": {"password": ["x Ann Bo"]}}]
    messages = [{"role": "assistant", "content": content}]
    body = json.dumps({"model": "claude-haiku-4-5", "max_tokens": 5, "messages": messages}).encode()

    assert body.replace(b"Ann Bo", b"<PERSON_1>") == forwarded(claude(book, body)).body
    effect = next(effect for effect in book.effects if isinstance(effect, FindEntities))
    assert '"password": "x Ann Bo"' in effect.texts


def test_structured_answers_stay_json_whatever_is_put_back():
    """`response_format`: a value with quotes, in a JSON answer and in a stream."""
    name = 'Zo\\ "Q" O\'Neil'
    body = chat(name, response_format={"type": "json_object"})
    book = redacting(STANDARD)
    call(book, body)
    told = json.loads(answer(book, '{"who": "<PERSON_1>"}'))["choices"][0]["message"]["content"]
    assert {"who": name} == json.loads(told)

    book = redacting(STANDARD)
    call(book, body[:-1] + b',"stream":true}')
    pieces = [event(piece) for piece in ('{"wh', 'o": "<PER', 'SON_1>"', "}")]
    assert {"who": name} == json.loads(texts(stream(book, *pieces, event(None, "stop") + b"data: [DONE]\n\n")))


def test_the_answer_of_a_chat_is_searched_before_it_comes_back():
    """As the caller will send it again; not for a first turn, of which nobody knows whether a second follows."""
    first = redacting(STANDARD)
    call(first, chat("Ann Bo"))
    answer(first, "Hello <PERSON_1>!")
    assert first.finish().redaction is not None
    assert not [effect for effect in first.effects if isinstance(effect, FindEntities) and effect.ahead]

    later = redacting(STANDARD)
    later.answers = {**later.answers, FindEntities: lambda effect: msgspec.structs.replace(find(effect), cached=1)}
    call(later, chat("Ann Bo", stream=True))
    stream(later, event("Hello <PER"), event("SON_1>!"), event(None, "stop") + b"data: [DONE]\n\n")
    later.finish()
    (ahead,) = [effect for effect in later.effects if isinstance(effect, FindEntities) and effect.ahead]
    assert ["Hello Ann Bo!"] == ahead.texts


def test_names_of_members_are_data_in_what_a_tool_returns():
    """Only those of arguments are left alone."""
    book = redacting(STANDARD)
    content = json.dumps({"ann@x.io": {"role": "admin"}})
    body = json.dumps({"model": "m", "messages": [{"role": "tool", "tool_call_id": "c", "content": content}]})

    assert b"ann@x.io" not in forwarded(call(book, body.encode())).body


def test_shadow_mode_refuses_nothing():
    """No attachment, no depth, no stored history, no token ids."""
    shadow = "  profiles:\n    standard: {mode: shadow, attachments: {links: false}}\n"
    link = [{"type": "image_url", "image_url": {"url": "https://x.io/a.png"}}, {"type": "text", "text": "Ann Bo"}]
    csv = [{"type": "image_url", "image_url": {"url": "data:text/csv,a"}}]
    deep: object = "x"
    for _ in range(300):
        deep = [deep]
    for content in (link, csv, deep):
        book = redacting(shadow)
        body = json.dumps({"model": "m", "messages": [{"role": "user", "content": content}]}).encode()
        assert forwarded(call(book, body)).body is None
    stored = b'{"model":"gpt-4o","input":"x","previous_response_id":"resp_1"}'
    assert forwarded(call(redacting(shadow), stored, "/v1/responses")).body is None
    assert forwarded(call(redacting(shadow), b'{"model":"m","input":[[1,2]]}', "/v1/embeddings")).body is None
