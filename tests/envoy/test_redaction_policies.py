"""Operators, profiles, refusals and failures of redaction, through real Envoy."""

from __future__ import annotations

import json
import re
import secrets
from typing import Any

import anthropic
import openai
import pytest

from envoy.machine import Machine
from envoy.redaction_calls import (
    CHAT,
    COUNT,
    EMBEDDINGS,
    MESSAGES,
    RESPONSES,
    answer_saying,
    chat,
    messages,
    post,
    received,
    refused,
    said,
)
from envoy.redaction_core import data_of, spoken, spoken_events
from envoy.redaction_values import Plants
from envoy.ways import Way, client, numbers, wait_for

pytestmark = pytest.mark.envoy

HEX = "[0-9a-f]{16}"


def sent(gateway: Machine, api: str = "openai") -> Any:
    """The last body that the vendor saw."""
    return gateway.seen(api)[-1].json()


def told(gateway: Machine) -> str:
    """The last chat message that the vendor saw."""
    return sent(gateway)["messages"][-1]["content"]


def total(gateway: Machine, name: str, **labels: str) -> float:
    """A counter, added up over all labels that are not named."""
    found = numbers(gateway, "metrics")
    return sum(value for (one, own), value in found.items() if one == name and labels.items() <= dict(own).items())


def make_key(gateway: Machine, team: str, app: str) -> str:
    """A new virtual key, usable at once."""
    made = gateway.cli("keys", "create", "--team", team, "--app", app, "--json")
    assert made.returncode == 0, made.stderr
    key = json.loads(made.stdout)["key"]
    # every worker learns it by itself, and each connection is served by any of them
    assert wait_for(lambda: all(post(gateway, CHAT, chat("hi"), key=key).status_code == 200 for _ in range(8)))
    gateway.forget()
    return key


class TestOperators:
    """One operator for each kind."""

    def test_each(self, redacting: Machine, plants: Plants) -> None:
        """A pseudonym comes back; a mask, a hash and a fixed text do not; what is allowed goes as it is."""
        email, card, iban, ssn = plants.email(), plants.card(), plants.iban(), plants.ssn()
        badge = f"E{secrets.randbelow(900_000) + 100_000}"
        text = f"mail {email}, card {card}, account {iban}, ssn {ssn}, badge {badge}."
        reply = post(redacting, CHAT, chat(text), "operators")

        wanted = rf"mail <EMAIL_ADDRESS_1>, card \*{{12}}{card[-4:]}, account (<IBAN_CODE:{HEX}>), ssn \[number\], badge (.*)\."
        found = re.fullmatch(wanted, told(redacting))
        assert found
        assert found[2] == badge
        assert said(reply) == told(redacting).replace("<EMAIL_ADDRESS_1>", email)
        post(redacting, CHAT, chat(f"again {iban} and {plants.iban()}"), "operators")
        again = re.findall(f"<IBAN_CODE:{HEX}>", told(redacting))
        assert again[0] == found[1] != again[1]

    @pytest.mark.parametrize("stream", [False, True])
    def test_names(self, redacting: Machine, stream: bool) -> None:
        """Of people, by the small model, where a profile says so; they come back like the rest."""
        text = "Hi, my name is Robert Johnson. Please tell Maria Gonzalez that Robert Johnson called."
        reply = post(redacting, CHAT, chat(text, stream=stream), "named", piece="1")

        wanted = "Hi, my name is <PERSON_1>. Please tell <PERSON_2> that <PERSON_1> called."
        assert told(redacting) == wanted
        assert said(reply) == text
        post(redacting, CHAT, chat(text))
        assert told(redacting) == text

    def test_secrets_are_masked(self, redacting: Machine, plants: Plants) -> None:
        """By default: an app has no use for a key in an answer."""
        key = plants.api_key()
        reply = post(redacting, CHAT, chat(f"my token {key} fails"))

        assert "*****" in told(redacting)
        assert redacting.holding([key, key[:12]]) == {}
        assert key not in reply.text

    @pytest.mark.parametrize("stream", [False, True])
    def test_block(self, redacting: Machine, plants: Plants, stream: bool) -> None:
        """A 400 in the vendor's shape names the kinds and the position, not the value; the vendor is not called."""
        ssn, iban = plants.ssn(), plants.iban()
        texts = ("hello", f"of {ssn} and {iban}")
        for path, body in (
            (CHAT, chat(*texts, stream=stream)),
            (MESSAGES, messages(*texts, stream=stream)),
            (RESPONSES, {"model": "fast", "input": texts[1], "stream": stream}),
        ):
            reply = post(redacting, path, body, "blocking")
            status, code, message, param = refused(reply)
            place = "input" if path == RESPONSES else "messages[1].content"
            assert (status, code) == (400, "policy_content_blocked")
            assert place in message
            assert "US_SSN" in message
            assert "IBAN_CODE" in message
            assert param in (place, None)
            assert ssn not in reply.text
            assert iban not in reply.text
        assert not redacting.seen("openai")
        assert not redacting.seen("anthropic")

    def test_block_is_an_error_of_the_sdk(self, redacting: Machine, plants: Plants) -> None:
        """One that it does not retry."""
        sdk = client(
            redacting, "openai", Way("base_url", "h1", "sync"), default_headers={"x-llm-data-class": "blocking"}
        )
        with pytest.raises(openai.BadRequestError, match="US_SSN"):
            sdk.chat.completions.create(**chat(f"of {plants.ssn()}"))
        sdk.close()
        assert not redacting.seen("openai")

    def test_without_restoring(self, redacting: Machine, plants: Plants) -> None:
        """`restore: false` leaves the placeholder in the answer."""
        reply = post(redacting, CHAT, chat(f"of {plants.email()}"), "one_way")

        assert said(reply) == "of <EMAIL_ADDRESS_1>"

    @pytest.mark.parametrize("profile", ["keys", "standard"])
    def test_names_of_arguments(self, redacting: Machine, plants: Plants, profile: str) -> None:
        """The keys of a tool's arguments are searched where that is asked for, and nowhere else."""
        value = plants.employee()
        call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": json.dumps({value: 1})}}
        body = chat("hi")
        body["messages"][:0] = [{"role": "assistant", "content": None, "tool_calls": [call]}]
        post(redacting, CHAT, body, profile)
        arguments = sent(redacting)["messages"][0]["tool_calls"][0]["function"]["arguments"]

        assert (value in json.loads(arguments)) == (profile == "standard")
        assert list(json.loads(arguments).values()) == [1]


class TestProfiles:
    """Who gets which."""

    def test_shadow_counts_and_changes_nothing(self, redacting: Machine, plants: Plants) -> None:
        """Byte for byte, and the counters say what would have been done."""
        where = {"mode": "shadow", "kind": "EMAIL_ADDRESS"}
        before = total(redacting, "llm_redaction_entities_total", **where)
        text = f"of {plants.email()} <EMAIL_ADDRESS_1> {plants.ssn()}"
        data = json.dumps(chat(text, n=1), indent=2).replace('"fast"', '"gpt-4o-mini"').encode()
        reply = post(redacting, CHAT, data, "shadow")

        assert redacting.seen("openai")[-1].body == data
        assert said(reply) == text
        assert wait_for(lambda: total(redacting, "llm_redaction_entities_total", **where) == before + 1)

    def test_by_team_and_app(self, redacting: Machine, plants: Plants) -> None:
        """A team in shadow mode, and an app that nobody looks at."""
        research, trusted = make_key(redacting, "research", "any"), make_key(redacting, "demo", "trusted")
        text = f"of {plants.email()}"
        for key in (research, trusted):
            assert said(post(redacting, CHAT, chat(text), key=key)) == text
            assert told(redacting) == text
        assert said(post(redacting, CHAT, chat(text))) == text
        assert told(redacting) == "of <EMAIL_ADDRESS_1>"
        records = redacting.wait_records(1, app="trusted")
        assert records
        assert not any("redaction" in record for record in records)

    def test_by_provider(self, redacting: Machine, plants: Plants) -> None:
        """A provider of our own is told everything; a chain that may end at another gets what the strictest one wants."""
        text = f"of {plants.email()}"
        assert said(post(redacting, CHAT, chat(text, model="own"))) == text
        assert told(redacting) == text
        assert said(post(redacting, CHAT, chat(text, model="either"))) == text
        assert told(redacting) == "of <EMAIL_ADDRESS_1>"

    def test_keyed_by_tenant(self, redacting: Machine, plants: Plants) -> None:
        """The same value has the same placeholder in every chat of a tenant, and another one elsewhere."""
        email = plants.email()
        seen = []
        for tenant, text in (("a", f"of {email}"), ("a", f"{plants.email()} knows of {email}"), ("b", f"of {email}")):
            reply = post(redacting, CHAT, chat(text), "keyed", tenant=tenant)
            assert said(reply) == text
            seen.append(re.findall(r"<EMAIL_ADDRESS_[a-z0-9]{12}>", told(redacting))[-1])
        assert seen[0] == seen[1] != seen[2]


class TestRefusals:
    """What cannot be inspected does not go out."""

    @pytest.mark.parametrize("field", ["previous_response_id", "conversation"])
    def test_stored_history(self, redacting: Machine, plants: Plants, field: str) -> None:
        """Refused by default; with keyed pseudonyms where the profile says so."""
        email = plants.email()
        body = {"model": "fast", "input": f"of {email}", field: "resp_abc"}
        status, code, message, param = refused(post(redacting, RESPONSES, body))
        assert (status, code) == (400, "policy_stored_history")
        assert field in message
        assert param in (field, None)
        assert not redacting.seen("openai")
        reply = post(redacting, RESPONSES, body, "keyed_history")
        assert said(reply) == f"of {email}"
        assert re.fullmatch(r"of <EMAIL_ADDRESS_[a-z0-9]{12}>", sent(redacting)["input"])
        assert sent(redacting)[field] == "resp_abc"

    def test_attachments(self, redacting: Machine) -> None:
        """By type, by size and by link, with the position; what is allowed goes out as it came."""
        small, large = "data:image/png;base64,AAAA", "data:image/png;base64," + "A" * 4096
        other = "data:application/x-msdownload;base64,AAAA"
        link = "https://files.acme.com/a.png"
        cases = [
            (small, "no_files", 200), (large, "no_files", 400), (link, "no_files", 400),
            (small, "", 200), (large, "", 200), (link, "", 200), (other, "", 400),
        ]  # fmt: skip
        for url, profile, status in cases:
            part = {"type": "image_url", "image_url": {"url": url}}
            body = {"model": "fast", "messages": [{"role": "user", "content": [part]}]}
            reply = post(redacting, CHAT, body, profile)
            assert reply.status_code == status, (url[:40], profile)
            if status == 200:
                assert sent(redacting)["messages"][0]["content"] == [part]
            else:
                _, code, message, _ = refused(reply)
                assert code == "policy_attachment_not_allowed"
                assert "messages[0].content[0].image_url.url" in message
        assert len(redacting.seen("openai")) == 4

    def test_budget(self, redacting: Machine, plants: Plants) -> None:
        """A search that takes too long is a 503, and nothing goes out unsearched; unless the profile says so, visibly."""
        before = total(redacting, "llm_redaction_failures_total", reason="budget")
        words = " ".join(secrets.token_hex(4) for _ in range(30_000))
        reply = post(redacting, CHAT, chat(f"{words} {plants.email()}"), "hasty")
        status, code, _, _ = refused(reply)
        assert (status, code) == (503, "gateway_inspection_failed")
        assert not redacting.seen("openai")
        words = " ".join(secrets.token_hex(4) for _ in range(30_000))
        passed = post(redacting, CHAT, chat(words), "hasty_open")
        assert passed.status_code == 200
        assert passed.headers["x-llm-redaction"] == "skipped"
        assert told(redacting) == words
        assert wait_for(lambda: total(redacting, "llm_redaction_failures_total", reason="budget") == before + 2)


class TestOutput:
    """What the model itself comes up with."""

    @pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES])
    @pytest.mark.parametrize("stream", [False, True])
    def test_mask(self, redacting: Machine, plants: Plants, path: str, stream: bool) -> None:
        """Its findings are masked, also over deltas; what the caller sent comes back all the same."""
        mine, its = plants.email(), plants.email()
        body = messages(f"of {mine}", stream=stream) if path == MESSAGES else chat(f"of {mine}", stream=stream)
        body = {"model": "fast", "input": f"of {mine}", "stream": stream} if path == RESPONSES else body
        answer_saying(redacting, path, f"<EMAIL_ADDRESS_1> and {its} too. ", stream=stream)
        reply = post(redacting, path, body, "masking_output")

        assert its not in reply.text
        assert re.match(rf"{re.escape(mine)} and \*+ too\. This is", said(reply))

    @pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES])
    def test_block_in_a_stream(self, redacting: Machine, plants: Plants, path: str) -> None:
        """The stream ends in the vendor's way, before any of the value; what came before it has arrived."""
        its = plants.email()
        body = messages("hi", stream=True) if path == MESSAGES else chat("hi", stream=True)
        body = {"model": "fast", "input": "hi", "stream": True} if path == RESPONSES else body
        answer_saying(redacting, path, f"{'Well. ' * 60} Write to {its} now.", stream=True)
        stream, cut = received(redacting, path, body, "blocking_output")

        assert not cut
        assert not any(its[at : at + 8].encode() in stream for at in range(len(its) - 7))
        assert "Well. " in "".join(spoken(stream).values())
        last = list(data_of(stream))[-1]
        assert "error" in last or last["type"] in ("error", "response.failed")
        assert "EMAIL_ADDRESS" in json.dumps(last)
        assert stream.endswith(b"data: [DONE]\n\n" if path == CHAT else b"\n\n")

    @pytest.mark.parametrize("api", ["openai", "anthropic"])
    async def test_block_in_a_stream_is_an_error_of_the_sdk(self, redacting: Machine, plants: Plants, api: str) -> None:
        """Raised by the iteration, after what could be said."""
        path, body = (MESSAGES, messages("hi")) if api == "anthropic" else (CHAT, chat("hi"))
        answer_saying(redacting, path, f"{'Well. ' * 60} Write to {plants.email()} now.", stream=True)
        options: dict[str, Any] = {"default_headers": {"x-llm-data-class": "blocking_output"}}
        sdk = client(redacting, api, Way("base_url", "h1", "async"), **options)
        place = sdk.messages if api == "anthropic" else sdk.chat.completions
        stream = await place.create(**body, stream=True)
        events: list[Any] = []

        async def read() -> None:
            async for event in stream:
                events.append(event.model_dump())

        with pytest.raises((openai.APIError, anthropic.APIError), match="EMAIL_ADDRESS"):
            await read()
        await sdk.close()

        assert "Well. " in "".join(spoken_events(events).values())

    @pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES])
    def test_block_in_json(self, redacting: Machine, plants: Plants, path: str) -> None:
        """A refusal takes the answer's place."""
        its = plants.email()
        body = messages("hi") if path == MESSAGES else chat("hi")
        body = {"model": "fast", "input": "hi"} if path == RESPONSES else body
        answer_saying(redacting, path, f"Write to {its} now.")
        reply = post(redacting, path, body, "blocking_output")

        status, code, message, _ = refused(reply)
        assert status >= 400
        assert code == "policy_content_blocked"
        assert "EMAIL_ADDRESS" in message
        assert its not in reply.text


class TestOtherEndpoints:
    """Those whose answers hold no text."""

    @pytest.mark.parametrize("many", [False, True])
    def test_embeddings(self, redacting: Machine, plants: Plants, many: bool) -> None:
        """Of a string and of a list."""
        values = [plants() for _ in range(4)]
        texts = [f"of {value}" for value in values]
        body = {"model": "text-embedding-3-small", "input": texts if many else texts[0], "user": plants.email()}
        reply = post(redacting, EMBEDDINGS, body)

        assert len(reply.json()["data"]) == (4 if many else 1)
        assert redacting.holding([*values, body["user"]]) == {}
        assert json.dumps(sent(redacting)["input"]).count("<") == (4 if many else 1)

    def test_token_counts(self, redacting: Machine, plants: Plants) -> None:
        """A count is of what would be sent."""
        value = plants.email()
        body = messages(f"of {value}")
        del body["max_tokens"]
        reply = post(redacting, COUNT, body)

        assert reply.json()["input_tokens"] > 0
        assert redacting.holding([value]) == {}
        assert sent(redacting, "anthropic")["messages"][0]["content"] == "of <EMAIL_ADDRESS_1>"
