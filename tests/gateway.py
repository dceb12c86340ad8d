"""A compiled gateway for playbooks: the demo configuration of the tests."""

from __future__ import annotations

from functools import cache
from pathlib import PurePath

from extproc.config import load
from extproc.exchange.effects import Caller
from extproc.exchange.setup import Modes
from extproc.runtime import Runtime, build
from playbook import Playbook

CONFIG = """
version: 1
providers:
  openai: {api: openai, hosts: [api.openai.com], models: [gpt-4o-mini, gpt-4o]}
  openai_b: {api: openai, hosts: [b.openai.example]}
  anthropic: {api: anthropic, hosts: [api.anthropic.com], models: [claude-haiku-4-5]}
  open: {api: openai, hosts: [open.example], unknown_paths: passthrough}
access:
- {team: demo}
- {team: narrow, models: ["gpt-4o-mini", fast], providers: [openai], endpoints: [openai_chat, openai_models]}
aliases:
  fast: {provider: openai, model: gpt-4o-mini}
  pool: {provider: openai, model: gpt-4o, fallback: [openai_b]}
  smart: {provider: anthropic, model: claude-sonnet-4-5}
limits: {request_body: 1MiB, response_body: 2MiB}
timeouts:
  classes: {standard: {first_byte: 10s, idle: 20s, total: 60s}, long: {first_byte: 100s, idle: 200s, total: 300s}}
  models: {"o1*": long}
pricing:
  overrides:
  - {provider: openai, model: priced, input: 1, output: 10}
"""


@cache
def runtime(text: str = CONFIG) -> Runtime:
    """Compile once."""
    return build(load(text.encode(), "gateway.yaml", base=PurePath("/nowhere")))


def play(modes: Modes | None = None, **options: Caller | None) -> Playbook:
    """A playbook on the demo gateway."""
    return Playbook(runtime().setup, modes, **options)
