"""From configuration to profiles."""

from __future__ import annotations

from pathlib import PurePath

import pytest

from extproc.config import load
from extproc.policies.compile_profiles import NOBODY, compile_profiles
from extproc.policies.profiles import Scanners
from extproc.redaction.operators import Allow, Block, Hash, Mask, Pseudonym, Replace
from redacting import KEY, Words

SECTION = """
version: 1
providers: {local: {api: openai, hosts: [api.openai.com]}}
redaction:
  key: {env: K}
  default: open
  rules: [{provider: local, team: research, profile: none}]
  profiles:
    tight:
      entities: {EMAIL_ADDRESS: {mask: {keep_last: 4, char: "#"}}, CRYPTO: {replace: "[wallet]"}, US_SSN: block, US_ITIN: hash, IP_ADDRESS: allow}
      output: {scan: block}
    open: {mode: shadow, placeholders: keyed, on_error: forward, budget: 2s}
"""


def test_no_section_means_nothing_is_looked_at():
    """One object for all configurations without it."""
    assert compile_profiles(None, {}, None) is NOBODY


def test_every_setting_arrives():
    """Operators by kind, what happens on trouble, answers."""
    section = load(SECTION.encode(), "x", base=PurePath("/nowhere")).redaction
    plain = Scanners(Words("a"), Words("b"))
    made = compile_profiles(section, {"tight": Scanners(Words("a"), Words("b"), Words("c")), "open": plain}, KEY)
    tight, open_ = (made._profiles[name] for name in ("tight", "open"))
    of = tight.operators.of

    assert (Mask("#", 4), Replace("[wallet]"), Block(), Hash(KEY), Allow()) == tuple(
        of(kind) for kind in ("EMAIL_ADDRESS", "CRYPTO", "US_SSN", "US_ITIN", "IP_ADDRESS")
    )
    assert (Pseudonym(), Mask(), Allow()) == (of("PERSON"), of("API_KEY"), of("URL"))
    assert tight.output is not None
    assert Block() == tight.output.operators.of("PERSON")
    assert (True, True, True, False, 2.0) == (
        open_.shadow,
        open_.keyed,
        open_.on_trouble.forward_on_error,
        open_.on_trouble.forward_on_budget,
        open_.on_trouble.budget,
    )
    assert ["", "open"] == [rule.profile for rule in made._rules]


def test_a_profile_without_scanners_is_an_error():
    """It would let everything pass."""
    section = load(SECTION.encode(), "x", base=PurePath("/nowhere")).redaction

    with pytest.raises(KeyError):
        compile_profiles(section, {}, KEY)
