"""No secret may stand in gateway.yaml, and none that does is repeated."""

from __future__ import annotations

import secrets
from pathlib import PurePath

import pytest

from extproc.config import ConfigErrors, Problem, load

MINIMAL = "version: 1\nproviders:\n  openai: {api: openai, hosts: [api.openai.com]}\n  claude: {api: anthropic}\n"


def mistakes(text: str) -> tuple[Problem, ...]:
    with pytest.raises(ConfigErrors) as caught:
        load(text.encode(), "gateway.yaml", base=PurePath("/etc/gateway"))
    return caught.value.errors


def secret_forms() -> list[str]:
    token = secrets.token_hex(24)
    begin = "-----BEGIN "
    return [
        "sk-" + token,
        "sk-ant-api03-" + token,
        "sk-proj-" + token,
        "exk-abcdefghij-" + token,
        "AIza" + token[:35],
        "AKIA" + "ABCDEFGHIJKLMNOP",
        "ghp_" + token,
        begin + "PRIVATE KEY-----",
        begin + "RSA PRIVATE KEY-----",
    ]


@pytest.mark.parametrize("index", range(9))
@pytest.mark.parametrize(
    ("line", "path"),
    [
        ("keys: {{pepper: '{0}'}}", "keys.pepper"),
        ("keys: {{pepper: {{env: '{0}'}}}}", "keys.pepper.env"),
        ("aliases: {{f: {{provider: openai, model: '{0}'}}}}", "aliases.f.model"),
        ("nonsense: ['{0}']", "nonsense[0]"),
        ("nonsense: {{'{0}': 1}}", 'nonsense["…"]'),
        ("log: {{level: info}}  # was {0}", "comment"),
    ],
)
def test_what_looks_like_a_secret_is_refused_everywhere_and_not_repeated(index: int, line: str, path: str) -> None:
    """Values, keys and comments; the message names the place, never the text."""
    secret = secret_forms()[index]
    found = mistakes(MINIMAL + line.format(secret) + "\n")
    hits = [problem for problem in found if "only by reference" in problem.reason]
    assert [problem.path for problem in hits] == [path]
    assert hits[0].line == 5
    assert secret not in str(ConfigErrors("gateway.yaml", hits))
    assert "{env: NAME}" in hits[0].hint


def test_harmless_words_are_not_taken_for_secrets() -> None:
    """Names that merely begin like keys are names."""
    text = MINIMAL + "aliases: {sk-learn-like-model-name: {provider: openai, model: risk-0123456789-abcdefghij}}\n"
    config = load(text.encode(), "gateway.yaml", base=PurePath())
    assert "sk-learn-like-model-name" in config.aliases


def test_no_message_repeats_a_misplaced_value() -> None:
    """A secret of no known form, put where it does not belong, stays out of messages."""
    word = secrets.token_urlsafe(12)
    text = (
        MINIMAL
        + f"keys: {{pepper: {{env: 'x {word}'}}}}\nworkers: {{count: '{word}'}}\nmetrics: {{address: '{word}'}}\n"
    )
    for problem in mistakes(text):
        assert word not in str(problem)
