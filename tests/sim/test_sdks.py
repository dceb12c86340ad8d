"""The simulator over TLS, called by the vendors' own SDKs."""

from __future__ import annotations

import ssl
from typing import Any

import anthropic
import openai
import pytest
from pydantic import BaseModel

from extproc.adapters.pki import Leaf
from extproc.sim import Settings, Simulator, Vendors
from sim.clients import http

ASK: Any = [{"role": "user", "content": "How deep is the sea?"}]
KEY = "key-" + "k" * 12


class Depth(BaseModel):
    """A structured answer."""

    metres: int
    of: str


@pytest.mark.parametrize("http2", [False, True])
class TestSdks:
    """The official SDKs cannot tell, over both protocols."""

    async def test_openai(self, sim: Simulator, trust: ssl.SSLContext, http2: bool) -> None:
        """Chat, stream with usage, tools, parsing, responses, embeddings, models."""
        async with http(sim, trust, http2=http2) as client:
            base = f"https://localhost:{sim.port}/v1"
            sdk = openai.AsyncOpenAI(api_key=KEY, base_url=base, http_client=client, max_retries=0)
            chat = await sdk.chat.completions.create(model="gpt-4o", messages=ASK)
            stream = await sdk.chat.completions.create(
                model="gpt-4o", messages=ASK, stream=True, stream_options={"include_usage": True}
            )
            chunks = [chunk async for chunk in stream]
            parsed = await sdk.chat.completions.parse(model="gpt-4o", messages=ASK, response_format=Depth)
            response = await sdk.responses.create(model="gpt-4o", input="How deep is the sea?")
            events = [e async for e in await sdk.responses.create(model="gpt-4o", input="How deep?", stream=True)]
            vectors = await sdk.embeddings.create(model="text-embedding-3-small", input="sea")
            names = [model.id async for model in sdk.models.list()]

        assert "How deep is the sea?" in (chat.choices[0].message.content or "")
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text == chat.choices[0].message.content
        assert chunks[-1].usage == chat.usage
        assert parsed.choices[0].message.parsed == Depth(metres=1, of="simulated")
        assert "How deep is the sea?" in response.output_text
        assert events[-1].type == "response.completed"
        assert len(vectors.data[0].embedding) == 1536
        assert "gpt-4o" in names
        assert {request.protocol for request in sim.requests} == {"HTTP/2" if http2 else "HTTP/1.1"}

    async def test_anthropic(self, sim: Simulator, trust: ssl.SSLContext, http2: bool) -> None:
        """Messages, the streaming helper with a tool, token counts, models."""
        tools: Any = [{"name": "depth", "input_schema": {"type": "object", "properties": {"of": {"type": "string"}}}}]
        async with http(sim, trust, http2=http2) as client:
            base = f"https://localhost:{sim.port}"
            sdk = anthropic.AsyncAnthropic(api_key=KEY, base_url=base, http_client=client, max_retries=0)
            message = await sdk.messages.create(model="claude-sonnet-4-6", max_tokens=99, messages=ASK)
            async with sdk.messages.stream(model="c", max_tokens=99, messages=ASK) as stream:
                text = "".join([piece async for piece in stream.text_stream])
            async with sdk.messages.stream(model="c", max_tokens=99, messages=ASK, tools=tools) as stream:
                called = await stream.get_final_message()
            counted = await sdk.messages.count_tokens(model="c", messages=ASK)
            names = [model.id async for model in sdk.models.list()]

        assert message.content[0].type == "text"
        assert message.content[0].text == text
        assert called.stop_reason == "tool_use"
        assert called.content[0].type == "tool_use"
        assert called.content[0].input == {"of": "simulated"}
        assert counted.input_tokens == message.usage.input_tokens
        assert "claude-sonnet-4-6" in names

    async def test_wrong_key(self, leaf: Leaf, trust: ssl.SSLContext, http2: bool) -> None:
        """A key that is not the vendor's makes the SDK raise its own error of that name."""
        vendors = Vendors(keys={"openai": [KEY], "anthropic": [KEY]})
        async with (
            Simulator("both", leaf, settings=Settings(vendors=vendors)) as sim,
            http(sim, trust, http2=http2) as c,
        ):
            base = f"https://localhost:{sim.port}"
            one = openai.AsyncOpenAI(api_key="wrong", base_url=base + "/v1", http_client=c, max_retries=0)
            two = anthropic.AsyncAnthropic(api_key="wrong", base_url=base, http_client=c, max_retries=0)
            with pytest.raises(openai.AuthenticationError):
                await one.models.list()
            with pytest.raises(anthropic.AuthenticationError):
                await two.models.list()
            assert (await one.with_options(api_key=KEY).models.list()).data
