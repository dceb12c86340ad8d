"""One gateway with a profile for each thing that is tested; a call picks its profile by the label `x-llm-data-class`."""

from __future__ import annotations

from typing import Any

from envoy.machine import LIMITS
from envoy.redaction_values import PATTERNS

# what is looked for is the same in all of them: detectors that are the same are compiled once
PROFILES = {
    "blocking": "entities: {US_SSN: block, IBAN_CODE: block}\n      names: off",
    "operators": """entities:
        EMAIL_ADDRESS: pseudonym
        CREDIT_CARD: {mask: {keep_last: 4}}
        IBAN_CODE: hash
        US_SSN: {replace: "[number]"}
        EMPLOYEE_ID: allow
      names: off""",
    "keyed": "placeholders: keyed\n      names: off",
    "keyed_history": "stored_history: keyed\n      names: off",
    "masking_output": "names: off\n      output: {scan: mask}",
    "blocking_output": "names: off\n      output: {scan: block}",
    "hasty": "budget: 1ms\n      names: off",
    "hasty_open": "budget: 1ms\n      names: off\n      on_budget: forward",
    "no_files": "names: off\n      attachments: {types: [image/png], max: 1KiB, links: false}",
    "one_way": "names: off\n      restore: false",
    "keys": "names: off\n      argument_keys: true",
    "shadow": "mode: shadow\n      names: off",
    "named": "names: fast",
    "standard": "names: off",
}
SECTION = (
    """
redaction:
  key: {file: redaction.key}
  default: standard
  rules:
  - {provider: local, profile: none}
  - {team: research, profile: shadow}
  - {app: trusted, profile: none}
"""
    + "".join(f"  - {{data_class: {name}, profile: {name}}}\n" for name in PROFILES)
    + "  profiles:\n"
    + "".join(f"    {name}:\n      {text}{PATTERNS}" for name, text in PROFILES.items())
)
LOCAL = """
  local:
    api: openai
    credential: {{env: TEST_OPENAI_KEY}}
    upstream: {{address: "127.0.0.1:{openai}", ca: {ca}, server_name: api.openai.com}}
"""
OPTIONS: dict[str, Any] = {
    "extra": LIMITS + SECTION,
    "providers": LOCAL,
    "access": "- {team: research}",
    "aliases": """
  own: {provider: local, model: gpt-4o-mini}
  either: {provider: local, model: gpt-4o-mini, fallback: [openai]}
""",
}
