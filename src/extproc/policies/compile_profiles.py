"""From the redaction section of a configuration and its compiled detectors to profiles. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from extproc.config import redaction as config
from extproc.policies.profiles import Attachments, OnTrouble, Output, Profile, ProfileRule, Profiles, Scanners
from extproc.redaction.operators import Allow, Block, Hash, Mask, Operator, Operators, Pseudonym, Replace
from extproc.redaction.pseudonyms import LITERAL

NOBODY: Final = Profiles({}, ())
"""Without a redaction section nothing is looked at."""


def compile_profiles(section: config.Redaction | None, scanners: Mapping[str, Scanners], key: bytes | None) -> Profiles:
    """`scanners`: by profile name, one for each. `key`: what `redaction.key` refers to."""
    if section is None:
        return NOBODY
    profiles = {name: _profile(name, given, scanners[name], key) for name, given in section.profiles.items()}
    rules = [
        ProfileRule(rule.team, rule.app, rule.tenant, rule.data_class, rule.provider, _name(rule.profile))
        for rule in section.rules
    ]
    last = ProfileRule("*", "*", "*", "*", "*", _name(section.default))
    return Profiles(profiles, (*rules, last))


def _name(profile: str) -> str:
    return "" if profile == config.NO_PROFILE else profile


def _profile(name: str, given: config.Profile, scanners: Scanners, key: bytes | None) -> Profile:
    output = None
    if scanners.answers is not None:
        output = Output(scanners.answers, compile_operators(given.output_operators(), key))
    attachments = given.attachments
    return Profile(
        name=name,
        shadow=given.mode == "shadow",
        scanners=scanners,
        operators=compile_operators(given.operators(), key),
        attachments=Attachments(attachments.types, attachments.max, attachments.links),
        keyed=given.placeholders == "keyed",
        keyed_history=given.stored_history == "keyed",
        argument_keys=given.argument_keys,
        restore=given.restore,
        on_trouble=OnTrouble(given.on_budget == "forward", given.on_error == "forward", given.budget),
        output=output,
        user_ids=Hash(key) if key is not None else None,
    )


def compile_operators(given: Mapping[str, config.Operator], key: bytes | None) -> Operators:
    """One operator for every kind that can be found."""
    return Operators({**{kind: _operator(one, key) for kind, one in given.items()}, LITERAL: Pseudonym()})


def _operator(given: config.Operator, key: bytes | None) -> Operator:
    if given.action == "mask":
        return Mask(given.mask.char, given.mask.keep_last)
    if given.action == "replace":
        return Replace(given.replace)
    if given.action == "hash":
        return Hash(key or b"")  # the loader refuses a hash without a key
    if given.action == "pseudonym":
        return Pseudonym()
    return Block() if given.action == "block" else Allow()
