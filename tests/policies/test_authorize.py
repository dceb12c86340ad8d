"""May this caller use this endpoint, provider and model?"""

from __future__ import annotations

import pytest

from extproc.config import load
from extproc.exchange.effects import Caller
from extproc.runtime import build
from gateway import CONFIG, play
from playbook import Playbook
from talk import CHAT, NARROW, STRANGER, call, claude, forwarded, refused


def gateway(access: str, caller: Caller) -> Playbook:
    """The demo gateway with other access rules."""
    from pathlib import PurePath

    begin, _, rest = CONFIG.partition("access:")
    text = f"{begin}access: {access}\naliases:{rest.partition('aliases:')[2]}"
    return Playbook(build(load(text.encode(), "gateway.yaml", base=PurePath("/nowhere"))).setup, caller=caller)


def model(name: str) -> bytes:
    return CHAT.replace(b"gpt-4o-mini", name.encode())


def test_who_has_no_rule_may_nothing():
    """Deny by default, for every endpoint."""
    for path in ("/v1/chat/completions", "/v1/embeddings", "/v1/responses"):
        assert (403, "policy_endpoint_not_allowed") == refused(play(caller=STRANGER).request(path))
    assert (403, "policy_endpoint_not_allowed") == refused(play(caller=STRANGER).request("/v1/models", end=True))


def test_no_rules_at_all_let_nobody_in():
    """An empty list is a closed door."""
    talk = gateway("[]", Caller("k", "demo", "app"))

    assert (403, "policy_endpoint_not_allowed") == refused(talk.request())


def test_the_endpoint_is_judged_before_any_body_is_read():
    """A refusal at the headers."""
    assert (403, "policy_endpoint_not_allowed") == refused(play(caller=NARROW).request("/v1/embeddings"))


@pytest.mark.parametrize("name", ["gpt-4o-mini", "fast"])
def test_a_model_that_is_allowed_passes(name):
    """By its own name, or by the alias's."""
    assert forwarded(call(play(caller=NARROW), model(name))).metadata["llm"]["model"] == "gpt-4o-mini"


@pytest.mark.parametrize("name", ["gpt-4o", "pool", "gpt-4o-mini ", "GPT-4o-mini", "gpt-4o-min", "*", "gpt-?o-mini"])
def test_a_model_that_is_not_allowed_is_404_as_the_vendors_say_it(name):
    """Patterns in the request are names like any other."""
    assert (404, "policy_model_not_allowed") == refused(call(play(caller=NARROW), model(name)))


def test_an_alias_name_alone_is_enough():
    """`fast` may be allowed where what it stands for is not."""
    caller = Caller("k", "demo", "app")
    rules = "[{team: demo, models: [fast]}]"

    assert forwarded(call(gateway(rules, caller), model("fast"))).body is not None
    assert (404, "policy_model_not_allowed") == refused(call(gateway(rules, caller), model("gpt-4o-mini")))


def test_a_provider_that_is_not_allowed_is_403():
    """Called by its own host."""
    answer = refused(call(play(caller=NARROW), p_authority="b.openai.example"))

    assert (403, "policy_provider_not_allowed") == answer


def test_provider_and_model_must_be_allowed_by_one_rule():
    """Two halves of two rules make no whole."""
    rules = "[{team: demo, providers: [openai], models: [a]}, {team: demo, providers: [openai_b], models: [b]}]"
    caller = Caller("k", "demo", "app")

    assert forwarded(call(gateway(rules, caller), model("a")))
    assert (404, "policy_model_not_allowed") == refused(call(gateway(rules, caller), model("b")))


@pytest.mark.parametrize(
    ("rule", "allowed"),
    [
        ("{team: demo, app: app}", True),
        ("{team: 'de*', app: 'a?p'}", True),
        ("{team: demo, app: other}", False),
        ("{team: demo, tenant: acme}", True),
        ("{team: demo, tenant: other}", False),
        ("{team: Demo}", False),
    ],
)
def test_rules_speak_of_team_app_and_tenant(rule, allowed):
    """Globs, case-sensitive; all must match."""
    actions = gateway(f"[{rule}]", Caller("k", "demo", "app", tenant="acme")).request()

    assert allowed is (actions[0].__class__.__name__ == "ContinueHeaders")


def test_a_tenant_in_a_header_opens_nothing():
    """The key's tenant is what counts."""
    talk = gateway("[{team: demo, tenant: acme}]", Caller("k", "demo", "app"))

    assert (403, "policy_endpoint_not_allowed") == refused(talk.request(x_llm_tenant="acme"))


def test_what_is_not_read_needs_a_rule_for_every_model():
    """The body of a passed-through call may name any model: a rule for some of them does not cover it."""
    caller = Caller("k", "demo", "app")
    some = gateway("[{team: demo, models: [gpt-4o-mini]}]", caller)
    every = gateway("[{team: demo, models: ['*']}]", caller)

    assert (403, "policy_endpoint_not_allowed") == refused(some.request("/v1/files", p_authority="open.example"))
    assert "unread" == forwarded(every.request("/v1/files", p_authority="open.example")).metadata["llm"]["endpoint"]


def test_a_refusal_wears_the_callers_dialect():
    """Anthropic's shape for Anthropic's clients."""
    import json

    answer = claude(play(caller=STRANGER))[0]

    assert {"type": "error"}.items() <= json.loads(answer.body).items()
    assert "permission_error" == json.loads(answer.body)["error"]["type"]
