"""An app, unmodified: the vendors' SDKs with nothing but key variables and SSL_CERT_FILE. Prints what it got as JSON.

Run by test_netns.py in a network namespace whose hosts file leads the vendors' names to the gateway.
"""

from __future__ import annotations

import asyncio
import json

import anthropic
import openai

SAY = [{"role": "user", "content": "hi there"}]


async def again() -> str:
    """The same by the async client."""
    async with openai.AsyncOpenAI(max_retries=0, timeout=20) as client:
        stream = await client.chat.completions.create(model="fast", messages=SAY, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])


def main() -> None:
    """Call both vendors, plain and streamed."""
    got: dict[str, object] = {}
    with openai.OpenAI(max_retries=0, timeout=20) as client:
        got["base"] = str(client.base_url)
        got["chat"] = client.chat.completions.create(model="fast", messages=SAY).choices[0].message.content
        stream = client.chat.completions.create(model="fast", messages=SAY, stream=True)
        got["stream"] = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        got["responses"] = client.responses.create(model="fast", input="hi there").output_text
    with anthropic.Anthropic(max_retries=0, timeout=20) as claude:
        got["message"] = claude.messages.create(model="smart", max_tokens=50, messages=SAY).content[0].text
        with claude.messages.stream(model="smart", max_tokens=50, messages=SAY) as events:
            got["message_stream"] = "".join(events.text_stream)
    got["async"] = asyncio.run(again())
    print(json.dumps(got))


if __name__ == "__main__":
    main()
