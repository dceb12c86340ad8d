"""The rules for contexts: their form; what they find is tested with the detector."""

from __future__ import annotations

import re2

from extproc.redaction.secret_contexts import CONTEXTS
from extproc.redaction.secret_filters import JUDGES
from extproc.redaction.secret_rules import KINDS


def test_contexts_are_sound():
    """Unique ids, known kinds and judges, patterns in ASCII that RE2 takes."""
    assert len(CONTEXTS) == len({context.id for context in CONTEXTS})
    for context in CONTEXTS:
        assert context.kind in KINDS
        assert context.judge in JUDGES
        assert context.pattern.isascii()
        assert re2.compile(context.pattern).groups <= 4


def test_no_rule_is_entropy_alone():
    """Each pattern has something literal to hold on to: it does not match a random word."""
    word = "q7Zp2Lx9VbT4mKd8Rw3Hs6Yc"

    assert [] == [context.id for context in CONTEXTS if re2.compile(context.pattern).search(word)]
