"""From a name to a provider and a model."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from extproc.policies.alias import make_route
from gateway import play
from talk import CHAT, MESSAGES, call, claude, forwarded, refused


def clusters(out) -> list[str]:
    groups = out.metadata["llm.candidates"]["priority_groups"]
    return [one["cluster_name"] for group in groups for one in group["clusters"]]


def test_without_an_alias_nothing_of_the_body_changes():
    """The provider is the one whose host was called."""
    out = forwarded(call(play()))

    assert out.body is None
    assert ["openai"] == clusters(out)
    assert "content-length" not in out.set


def test_an_alias_edits_the_model_span_and_nothing_else():
    """Odd spacing, escapes, unknown fields and order stay."""
    body = b'{ "x" : 1.0e3,\n "model"\t:  "fa\\u0073t" , "messages":[{"role":"user","content":"\\u00e9"}],"z":{}}\n'
    out = forwarded(call(play(), body))

    assert body.replace(b'"fa\\u0073t"', b'"gpt-4o-mini"') == out.body
    assert str(len(out.body)) == out.set["content-length"]
    assert ("gpt-4o-mini", "fast") == (out.metadata["llm"]["model"], out.metadata["llm"]["requested_model"])


def test_only_the_top_level_model_is_the_model():
    """A nested key of that name is the caller's own."""
    body = (
        b'{"metadata":{"model":"fast"},"messages":[{"role":"user","content":"\\"model\\":\\"fast\\""}],"model":"fast"}'
    )
    out = forwarded(call(play(), body))

    assert body[: -len(b'"fast"}')] + b'"gpt-4o-mini"}' == out.body


def test_the_chain_of_an_alias_goes_to_envoy_in_order():
    """One priority group a provider: Envoy fails over from one to the next."""
    out = forwarded(call(play(), CHAT.replace(b"gpt-4o-mini", b"pool")))

    assert ["openai", "openai_b"] == clusters(out)
    assert ["openai", "openai_b"] == [g["name"] for g in out.metadata["llm.candidates"]["priority_groups"]]


def test_an_alias_chooses_the_provider_whatever_host_was_called():
    """Same wire format, another provider."""
    talk = play()
    out = forwarded(call(talk, CHAT.replace(b"gpt-4o-mini", b"fast"), p_authority="b.openai.example"))

    assert ["openai"] == clusters(out)
    assert "openai" == talk.finish().provider


def test_an_alias_of_another_api_is_404_either_way():
    """Nothing translates here."""
    assert (404, "policy_model_not_allowed") == refused(call(play(), CHAT.replace(b"gpt-4o-mini", b"smart")))
    assert (404, "policy_model_not_allowed") == refused(claude(play(), MESSAGES.replace(b"claude-haiku-4-5", b"fast")))


def test_an_alias_works_for_every_endpoint_with_a_model():
    """Embeddings, Responses, Messages, counting."""
    embed = forwarded(call(play(), b'{"model":"fast","input":"x"}', "/v1/embeddings"))
    respond = forwarded(call(play(), b'{"model":"fast","input":"x"}', "/v1/responses"))
    message = forwarded(claude(play(), MESSAGES.replace(b"claude-haiku-4-5", b"smart")))
    count = forwarded(claude(play(), b'{"model":"smart","messages":[]}', "/v1/messages/count_tokens"))

    assert b'{"model":"gpt-4o-mini","input":"x"}' == embed.body == respond.body
    assert MESSAGES.replace(b"claude-haiku-4-5", b"claude-sonnet-4-5") == message.body
    assert b'{"model":"claude-sonnet-4-5","messages":[]}' == count.body


def test_names_are_case_sensitive():
    """`Fast` is not `fast`: it goes on as it is."""
    assert forwarded(call(play(), CHAT.replace(b"gpt-4o-mini", b"Fast"))).body is None


@given(st.text(st.characters(codec="utf-8"), max_size=30))
def test_any_text_beside_the_model_survives_the_edit(text):
    """Design invariant 1 with an edit."""
    import orjson

    head = b'{"messages":[{"role":"user","content":' + orjson.dumps(text) + b'}],"model":'

    assert head + b'"gpt-4o-mini"}' == forwarded(call(play(), head + b'"fast"}')).body


def test_a_route_names_clusters_rather_than_providers():
    """A provider's cluster may have another name."""
    route = make_route("a", "openai", (("a", "cluster_a"), ("b", "cluster_b")))

    assert ("a", "b") == route.chain
    assert {"name": "a", "clusters": [{"cluster_name": "cluster_a", "weight": 1}]} == route.groups[0]
