"""A first call over the plain base URL."""

from __future__ import annotations

import openai


def test_a_call_arrives_with_the_vendors_key_and_comes_back(gateway):
    """The caller's key stays here, the vendor's key goes on, the record says what it cost."""
    client = openai.OpenAI(base_url=gateway.url() + "/v1", api_key=gateway.key, max_retries=0)
    answer = client.chat.completions.create(model="fast", messages=[{"role": "user", "content": "hi there"}])
    (seen,) = gateway.seen("openai")

    assert "hi there" in answer.choices[0].message.content
    assert f"Bearer {gateway.vendor_keys['openai']}" == seen.fields["authorization"]
    assert gateway.key.encode() not in b"".join(value for _, value in seen.headers)
    assert gateway.wait_records(1, requested_model="fast", outcome="ok")
