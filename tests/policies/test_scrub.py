"""What must not go on does not, and labels are read before they go."""

from __future__ import annotations

import pytest

from extproc.exchange.effects import Caller
from extproc.policies.scrub import clean_label
from gateway import play
from talk import CHAT, KEY, VENDOR_KEY, begin, call, forwarded

NEVER = (
    "authorization", "x-api-key", "api-key", "x-goog-api-key", "ocp-apim-subscription-key", "proxy-authorization",
    "x-amz-security-token", "cookie", "accept-encoding", "forwarded", "via", "traceparent", "tracestate", "baggage",
    "x-forwarded-for", "x-forwarded-client-cert", "x-envoy-external-address", "x-envoy-retry-on", "x-real-ip",
    "x-llm-feature", "x-llm-whatever", "x-llmi-class", "x-llmi-inner", "x-llmi-routed", "x-b3-traceid",
)  # fmt: skip


def test_everything_that_must_not_go_on_is_removed_by_name():
    """Credentials, cookies, labels, our own and Envoy's headers, tracing."""
    talk = play()
    begin(
        talk,
        ("authorization", f"Bearer {KEY}"),
        *((name, "v") for name in NEVER if "key" not in name and name != NEVER[0]),
    )
    out = forwarded(talk.body(CHAT))
    gone = {name for name in NEVER if "key" not in name}

    assert gone <= out.remove | set(out.set)
    assert "v" not in out.set.values()


@pytest.mark.parametrize("name", [name for name in NEVER if "key" in name])
def test_a_key_of_the_vendor_beside_ours_goes_too(name):
    """The inner hop attaches the right one."""
    talk = play()
    begin(talk, ("authorization", f"Bearer {KEY}"), (name, VENDOR_KEY))

    assert {name, "authorization"} <= forwarded(talk.body(CHAT)).remove


def test_what_envoy_itself_needs_stays_until_the_inner_hop():
    """Its router wants the one, its log the other; the inner hop removes both before the provider."""
    out = forwarded(call(play(), x_request_id="made-by-envoy", x_forwarded_proto="https"))

    assert not {"x-request-id", "x-forwarded-proto"} & out.remove


def test_what_is_not_there_is_not_removed():
    """The mutation stays small."""
    assert {"authorization"} == forwarded(call(play())).remove


def test_the_sdks_own_headers_stay():
    """The vendor's SDK talks to its vendor."""
    out = forwarded(call(play(), x_stainless_lang="python", openai_beta="x", user_agent="OpenAI/Python", accept="*/*"))

    assert not {"x-stainless-lang", "openai-beta", "user-agent", "accept", "content-type"} & out.remove


def test_internal_headers_of_a_client_are_not_believed():
    """The timeout class, the timeouts and the mark of an inner answer are ours to set."""
    talk = play()
    out = forwarded(
        call(
            talk,
            x_llmi_class="long",
            x_llmi_inner="no_healthy_upstream",
            x_envoy_upstream_rq_timeout_ms="1",
            x_envoy_upstream_rq_per_try_timeout_ms="1",
            x_envoy_max_retries="99",
        )
    )

    assert ("standard", "60000", "10000") == (
        out.set["x-llmi-class"],
        out.set["x-envoy-upstream-rq-timeout-ms"],
        out.set["x-envoy-upstream-rq-per-try-timeout-ms"],
    )
    assert {"x-llmi-inner", "x-envoy-max-retries"} <= out.remove
    assert "standard" == talk.finish().timeout_class


def test_labels_are_read_bounded_and_stripped():
    """64 characters by default; what could break a metric is an underscore."""
    talk = play()
    out = forwarded(
        call(talk, x_llm_feature="search" + "x" * 100, x_llm_user='a b"{}\n', x_llm_prompt="p/1.2", x_llm_tenant="t")
    )
    record = talk.finish()

    assert ("search" + "x" * 58, "a_b___", "p/1.2", "t") == tuple(
        record.labels[name] for name in ("feature", "user", "prompt", "tenant")
    )
    assert {"x-llm-feature", "x-llm-user", "x-llm-prompt", "x-llm-tenant"} <= out.remove
    assert record.labels.items() <= out.metadata["llm"].items()


def test_a_key_in_a_label_is_not_written_down():
    """A mistake of a caller's; labels are logged."""
    talk = play()
    call(talk, x_llm_user=KEY)

    assert KEY not in repr(talk.finish())


def test_labels_cannot_pass_for_the_identity():
    """There is no header for team, app or key."""
    talk = play()
    out = forwarded(call(talk, x_llm_team="boss", x_llm_app="boss", x_llm_key_id="boss", x_llm_model="boss"))

    assert ("demo", "app", "k1") == tuple(out.metadata["llm"][name] for name in ("team", "app", "key_id"))
    assert {} == talk.finish().labels


def test_the_keys_own_tenant_and_user_win_over_headers():
    """A header is a claim, a key is a fact."""
    talk = play(caller=Caller(key_id="k1", team="demo", app="app", tenant="acme", user="u1"))
    call(talk, x_llm_tenant="evil", x_llm_user="root")
    record = talk.finish()

    assert ("acme", "u1") == (record.tenant, record.user)


def test_the_first_of_repeated_labels_counts():
    """One value, whatever is sent."""
    talk = play()
    begin(talk, ("authorization", f"Bearer {KEY}"), ("x-llm-user", "one"), ("x-llm-user", "two"))
    talk.body(CHAT)

    assert "one" == talk.finish().user


@pytest.mark.parametrize("value", ["", "   ", "\t"])
def test_an_empty_label_is_none(value):
    """Not a label with an empty value."""
    assert "" == clean_label(value, 10)


def test_the_data_class_is_a_label_and_goes_no_further():
    """Rules of redaction match it; it is bounded and cleaned like every label, and a key in it is not kept."""
    for sent, kept in (("internal", "internal"), ("a b\x7f" + "c" * 300, "a_b_" + "c" * 60), (KEY, None)):
        talk = play()
        begin(talk, ("authorization", f"Bearer {KEY}"), ("x-llm-data-class", sent))

        assert "x-llm-data-class" in forwarded(talk.body(CHAT)).remove
        assert talk.exchange.facts.labels.get("data_class") == kept
