"""The list of models is what this caller may use, no more and no less."""

from __future__ import annotations

import json
from pathlib import PurePath

import pytest

from extproc.config import load
from extproc.exchange.effects import Caller
from extproc.runtime import build
from gateway import CONFIG, play
from playbook import Playbook
from talk import NARROW, answered, call, claude, refused

CLAUDE = {"p_authority": "api.anthropic.com", "anthropic_version": "2023-06-01"}


def listed(talk: Playbook, path: str = "/v1/models", **fields: str) -> dict:
    answer = answered(talk.request(path, end=True, **fields))
    assert answer is not None
    assert (200, ("content-type", "application/json")) == (answer.status, answer.headers[0])
    return json.loads(answer.body)


def test_the_list_in_openais_shape_has_what_the_rules_allow():
    """Alias and model, nothing else."""
    body = listed(play(caller=NARROW))

    assert "list" == body["object"]
    assert ["fast", "gpt-4o-mini"] == [one["id"] for one in body["data"]]
    assert {"id": "fast", "object": "model", "owned_by": "openai"}.items() <= body["data"][0].items()


def test_the_list_in_anthropics_shape():
    """Pages, and the vendor's names for things."""
    body = listed(play(), "/v1/models?limit=1000", **CLAUDE)
    names = [one["id"] for one in body["data"]]

    assert names[0] == "smart"
    assert "claude-haiku-4-5" in names
    assert (False, names[0], names[-1]) == (body["has_more"], body["first_id"], body["last_id"])
    assert all(one["type"] == "model" for one in body["data"])


def test_anthropics_pages_add_up_to_the_list():
    """Twenty a page, by cursor."""
    whole = [one["id"] for one in listed(play(), "/v1/models?limit=1000", **CLAUDE)["data"]]
    found: list[str] = []
    for _ in range(20):
        cursor = f"&after_id={found[-1]}" if found else ""
        page = listed(play(), f"/v1/models?limit=5{cursor}", **CLAUDE)
        found += [one["id"] for one in page["data"]]
        if not page["has_more"]:
            break

    assert whole == found


def test_no_name_is_listed_twice_and_every_listed_name_may_be_called():
    """Other providers of the same wire format are called at their own hosts: their names are not this host's."""
    names = [one["id"] for one in listed(play())["data"]]

    assert len(set(names)) == len(names)
    assert {"fast", "pool", "gpt-4o"} <= set(names)
    assert "smart" not in names
    for name in ("fast", "pool", "gpt-4o"):
        assert not answered(call(play(), json.dumps({"model": name, "messages": []}).encode()))


def test_a_rule_that_only_opens_the_list_lists_nothing():
    """What may not be called is not offered."""
    begin, _, rest = CONFIG.partition("access:")
    rules = "[{team: demo, endpoints: [openai_models]}, {team: demo, endpoints: [openai_chat], models: [gpt-4o]}]"
    text = f"{begin}access: {rules}\naliases:{rest.partition('aliases:')[2]}"
    setup = build(load(text.encode(), "gateway.yaml", base=PurePath("/nowhere"))).setup

    assert ["pool", "gpt-4o"] == [one["id"] for one in listed(Playbook(setup))["data"]]


def test_a_single_model_is_shown_if_it_may_be_used():
    """Both vendors have that call."""
    assert "fast" == listed(play(caller=NARROW), "/v1/models/fast")["id"]
    assert "smart" == listed(play(), "/v1/models/smart", **CLAUDE)["id"]


@pytest.mark.parametrize("name", ["gpt-4o", "nothing", "..", "%2e%2e", "a/b", "smart"])
def test_a_single_model_that_may_not_be_used_is_404(name):
    """As if it were not there."""
    assert (404, "policy_model_not_allowed") == refused(play(caller=NARROW).request(f"/v1/models/{name}", end=True))


def test_a_bad_page_is_400_in_the_vendors_shape():
    """The cursor names nothing."""
    assert (400, "caller_invalid_field") == refused(play().request("/v1/models?after_id=x", end=True, **CLAUDE))
    assert (400, "caller_invalid_field") == refused(play().request("/v1/models?limit=0", end=True, **CLAUDE))


def test_the_list_is_on_record_and_costs_nothing():
    """Answered here: the provider was not asked."""
    talk = play()
    listed(talk)
    record = talk.finish()

    assert ("answered", "openai_models", 200, "none") == (
        record.outcome, record.endpoint, record.status, record.usage_source,
    )  # fmt: skip
    assert record.cost is None
    assert record.bytes_out > 0


def test_the_list_needs_a_key():
    """Like everything."""
    assert (401, "caller_missing_key") == refused(play().request("/v1/models", end=True, authorization=""))


def test_other_calls_are_not_answered_here():
    """Only the models endpoints."""
    assert not answered(call(play()))
    assert not answered(claude(play(caller=Caller("k", "demo", "app"))))
