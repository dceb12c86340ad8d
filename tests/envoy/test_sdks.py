"""The vendors' own SDKs through real Envoy, over every entry, in HTTP/1.1 and HTTP/2."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from envoy.machine import HOSTS, Machine
from envoy.ways import WAYS, Way, client, collect, settle

pytestmark = pytest.mark.envoy

SAY = [{"role": "user", "content": "hi there"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "weather", "description": "d", "parameters": SCHEMA}}
RESPONSES_TOOL = {"type": "function", "name": "weather", "parameters": SCHEMA, "strict": False}
CLAUDE_TOOL = {"name": "weather", "description": "d", "input_schema": SCHEMA}


async def chat(sdk: Any) -> None:
    answer = await settle(sdk.chat.completions.create(model="gpt-4o-mini", messages=SAY))
    assert "hi there" in answer.choices[0].message.content
    assert answer.usage.total_tokens > 0


async def chat_alias(sdk: Any) -> None:
    answer = await settle(sdk.chat.completions.create(model="fast", messages=SAY))
    assert answer.model.startswith("gpt-4o-mini")


async def chat_stream(sdk: Any) -> None:
    chunks = await collect(await settle(sdk.chat.completions.create(model="fast", messages=SAY, stream=True)))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert "hi there" in text
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert all(chunk.usage is None and "usage" not in chunk.model_fields_set for chunk in chunks)


async def chat_stream_usage(sdk: Any) -> None:
    options = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = await collect(await settle(sdk.chat.completions.create(model="fast", messages=SAY, **options)))
    assert chunks[-1].usage.completion_tokens > 0
    assert chunks[-1].choices == []


async def chat_tools(sdk: Any) -> None:
    answer = await settle(sdk.chat.completions.create(model="fast", messages=SAY, tools=[TOOL]))
    (call,) = answer.choices[0].message.tool_calls
    assert answer.choices[0].finish_reason == "tool_calls"
    result = {"role": "tool", "tool_call_id": call.id, "content": "12 °C"}
    said = [*SAY, answer.choices[0].message.model_dump(exclude_none=True), result]
    again = await settle(sdk.chat.completions.create(model="fast", messages=said, tools=[TOOL]))
    assert (call.function.name, list(json.loads(call.function.arguments))) == ("weather", ["city"])
    assert again.choices[0].finish_reason == "stop"


async def chat_tools_stream(sdk: Any) -> None:
    made = sdk.chat.completions.create(model="fast", messages=SAY, tools=[TOOL], stream=True)
    deltas = [chunk.choices[0].delta for chunk in await collect(await settle(made))]
    calls = [call for delta in deltas for call in delta.tool_calls or []]
    assert calls[0].function.name == "weather"
    assert list(json.loads("".join(call.function.arguments or "" for call in calls))) == ["city"]
    assert len(calls) > 2


async def responses(sdk: Any) -> None:
    answer = await settle(sdk.responses.create(model="fast", input="hi there", tools=[]))
    assert "hi there" in answer.output_text
    assert answer.usage.output_tokens > 0


async def responses_stream(sdk: Any) -> None:
    events = await collect(await settle(sdk.responses.create(model="fast", input="hi there", stream=True)))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert "hi there" in text
    assert events[-1].type == "response.completed"
    assert [event.sequence_number for event in events] == list(range(len(events)))


async def responses_tools_stream(sdk: Any) -> None:
    made = sdk.responses.create(model="fast", input="hi there", tools=[RESPONSES_TOOL], stream=True)
    events = await collect(await settle(made))
    pieces = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    assert list(json.loads("".join(pieces))) == ["city"]


async def embeddings(sdk: Any) -> None:
    answer = await settle(sdk.embeddings.create(model="text-embedding-3-small", input=["one", "two"]))
    assert [item.index for item in answer.data] == [0, 1]
    assert len(answer.data[0].embedding) > 10


async def openai_models(sdk: Any) -> None:
    names = [model.id for model in (await settle(sdk.models.list())).data]
    assert {"fast", "gpt-4o-mini"} <= set(names)


async def messages(sdk: Any) -> None:
    answer = await settle(sdk.messages.create(model="claude-haiku-4-5", max_tokens=50, messages=SAY))
    assert "hi there" in answer.content[0].text
    assert answer.usage.output_tokens > 0


async def messages_events(sdk: Any) -> None:
    made = sdk.messages.create(model="smart", max_tokens=50, messages=SAY, stream=True)
    events = await collect(await settle(made))
    assert "hi there" in "".join(e.delta.text for e in events if e.type == "content_block_delta")
    assert (events[0].type, events[-1].type) == ("message_start", "message_stop")


async def messages_stream(sdk: Any) -> None:
    """The SDK's own accumulating helper."""
    manager = sdk.messages.stream(model="smart", max_tokens=50, messages=SAY)
    if hasattr(manager, "__enter__"):
        with manager as stream:
            text, final = "".join(stream.text_stream), stream.get_final_message()
    else:
        async with manager as stream:
            text = "".join([piece async for piece in stream.text_stream])
            final = await stream.get_final_message()
    assert "hi there" in text
    assert final.stop_reason == "end_turn"


async def messages_tools(sdk: Any) -> None:
    answer = await settle(sdk.messages.create(model="smart", max_tokens=50, messages=SAY, tools=[CLAUDE_TOOL]))
    assert answer.stop_reason == "tool_use"
    assert list(answer.content[0].input) == ["city"]


async def messages_tools_stream(sdk: Any) -> None:
    made = sdk.messages.create(model="smart", max_tokens=50, messages=SAY, tools=[CLAUDE_TOOL], stream=True)
    events = await collect(await settle(made))
    pieces = [e.delta.partial_json for e in events if e.type == "content_block_delta"]
    assert list(json.loads("".join(pieces))) == ["city"]


async def count_tokens(sdk: Any) -> None:
    assert (await settle(sdk.messages.count_tokens(model="smart", messages=SAY))).input_tokens > 0


async def anthropic_models(sdk: Any) -> None:
    page = await settle(sdk.models.list())
    assert {"smart", "claude-haiku-4-5"} <= {model.id for model in page.data}


OPENAI = [
    *(chat, chat_alias, chat_stream, chat_stream_usage, chat_tools, chat_tools_stream),
    *(responses, responses_stream, responses_tools_stream, embeddings, openai_models),
]
ANTHROPIC = [
    *(messages, messages_events, messages_stream, messages_tools, messages_tools_stream),
    *(count_tokens, anthropic_models),
]
CALLS = [("openai", call) for call in OPENAI] + [("anthropic", call) for call in ANTHROPIC]


@pytest.mark.parametrize(("api", "call"), CALLS, ids=[call.__name__ for _, call in CALLS])
@pytest.mark.parametrize("way", WAYS, ids=str)
async def test_the_sdk_works(gateway: Machine, api: str, call: Any, way: Way) -> None:
    """Every kind of call gives what the vendor would give; the vendor saw its own key, name and nothing of ours."""
    sdk = client(gateway, api, way)
    try:
        await call(sdk)
    finally:
        await settle(sdk.close())
    for seen in gateway.seen(api):
        header = "authorization" if api == "openai" else "x-api-key"
        assert seen.fields[header].removeprefix("Bearer ") == gateway.vendor_keys[api]
        assert seen.server_name == HOSTS[api]
        assert gateway.key.encode() not in b"".join(value for _, value in seen.headers) + seen.body
    assert not gateway.seen("anthropic" if api == "openai" else "openai")


def test_the_http_version_is_the_one_asked_for(gateway: Machine) -> None:
    """The parameter of the tests above is real: Envoy's access log tells the protocol of the caller."""
    versions = {}
    for way in [way for way in WAYS if way.mode == "sync"]:
        sdk = client(gateway, "openai", way)
        raw = sdk.chat.completions.with_raw_response.create(model="fast", messages=SAY)
        versions[str(way)] = raw.http_response.http_version
        sdk.close()
    assert versions == {name: "HTTP/2" if "-h2-" in name else "HTTP/1.1" for name in versions}


@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_an_sdk_with_nothing_but_environment_variables(
    gateway: Machine, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """HTTPS_PROXY, SSL_CERT_FILE and the key variable are all that an app needs."""
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{gateway.ports['connect']}")
    monkeypatch.setenv("SSL_CERT_FILE", str(gateway.bundle))
    monkeypatch.setenv("OPENAI_API_KEY", gateway.key)
    for name in ("NO_PROXY", "no_proxy", "https_proxy", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    sdk: Any = openai.OpenAI() if mode == "sync" else openai.AsyncOpenAI()
    await chat(sdk)
    await chat_stream(sdk)
    await settle(sdk.close())
    assert len(gateway.seen("openai")) == 2
