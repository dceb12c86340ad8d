"""Token counts of the OpenAI family, brought to one meaning.

Rules: the vendor's API reference; compatible vendors differ only in where they put a count, or in whether
`completion_tokens` holds the reasoning tokens, which their own total gives away.
"""

from __future__ import annotations

from extproc.dialects.counting import count, details, known
from extproc.dialects.spans import is_object
from extproc.usage import Usage


def chat(raw: object) -> Usage | None:
    """`usage` of Chat Completions and of what imitates it (DeepSeek, Groq, Moonshot, xAI); None where it has no counts."""
    if not is_object(raw):
        return None
    prompt = details(raw, "prompt_tokens_details")
    reasoning = count(details(raw, "completion_tokens_details"), "reasoning_tokens")
    if reasoning is None:
        reasoning = count(raw, "reasoning_tokens")  # models hosted by Azure
    read, written, total = (count(raw, name) for name in ("prompt_tokens", "completion_tokens", "total_tokens"))
    if reasoning and read is not None and written is not None and total == read + written + reasoning:
        written += reasoning  # xAI leaves reasoning out of completion_tokens
    cached = count(prompt, "cached_tokens")
    for elsewhere in ("cached_tokens", "prompt_cache_hit_tokens"):  # Moonshot, DeepSeek
        if cached is None:
            cached = count(raw, elsewhere)
    return known(
        Usage(
            input=read,
            output=written,
            cached_input=cached,
            cache_creation_input=count(prompt, "cache_write_tokens"),
            reasoning=reasoning,
        )
    )


def responses(raw: object) -> Usage | None:
    """`usage` of a Responses answer; None where it has no counts."""
    if not is_object(raw):
        return None
    read = details(raw, "input_tokens_details")
    return known(
        Usage(
            input=count(raw, "input_tokens"),
            output=count(raw, "output_tokens"),
            cached_input=count(read, "cached_tokens"),
            cache_creation_input=count(read, "cache_write_tokens"),
            reasoning=count(details(raw, "output_tokens_details"), "reasoning_tokens"),
        )
    )


def embeddings(raw: object) -> Usage | None:
    """`usage` of an Embeddings answer: input only; some vendors give the total alone."""
    if not is_object(raw):
        return None
    read = count(raw, "prompt_tokens")
    return known(Usage(input=count(raw, "total_tokens") if read is None else read))
