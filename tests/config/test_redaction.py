"""The section `redaction`: what is written arrives as meant, defaults are safe, every mistake has its place and cure."""

from __future__ import annotations

from pathlib import PurePath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.config import Config, ConfigErrors, Problem, load
from extproc.config.redaction import DEFAULT_OPERATORS, KINDS, SECRET_KINDS, Mask, Operator, Profile, Redaction

HEAD = "version: 1\nproviders:\n  openai: {api: openai, hosts: [api.openai.com]}\n  local: {api: openai}\n"

FULL = r"""redaction:
  key: {file: state/redaction.key}
  default: usual
  rules:
  - {team: research, app: "*", tenant: "*", data_class: "public", provider: local, profile: none}
  - {team: "legal*", profile: tight}
  profiles:
    tight: {placeholders: keyed, stored_history: keyed, names: strict, output: {scan: block}}
    usual:
      mode: shadow
      entities:
        EMAIL_ADDRESS: pseudonym
        CREDIT_CARD: {mask: {keep_last: 4, char: "#"}}
        US_SSN: block
        LOCATION: pseudonym
        PHONE_NUMBER: allow
        CRYPTO: {replace: "[wallet]"}
        US_ITIN: hash
        PROJECT: mask
      names: spacy
      spacy: {model: de_core_news_md, language: de}
      phone_regions: [DE, AT]
      patterns: [{kind: EMPLOYEE_ID, regex: 'E\d{6}', score: 0.5, context: [employee], ignore_case: true}]
      deny: {PROJECT: [Bluebird]}
      allow: [example.com]
      attachments: {types: [image/*], max: 1MiB, links: false}
      argument_keys: true
      budget: 100ms
      on_budget: forward
      on_error: forward
      restore: false
      output: {scan: mask, entities: {EMAIL_ADDRESS: allow, US_SSN: hash}}
"""


def read(text: str) -> Config:
    return load((HEAD + text).encode(), "gateway.yaml", base=PurePath("/etc/gateway"))


def section(text: str) -> Redaction:
    found = read(text).redaction
    assert found is not None
    return found


def mistakes(text: str) -> tuple[Problem, ...]:
    with pytest.raises(ConfigErrors) as caught:
        read(text)
    return caught.value.errors


def profile(text: str) -> Profile:
    """The profile `p` with these keys."""
    return section(f"redaction: {{default: p, profiles: {{p: {text}}}}}\n").profiles["p"]


def test_everything_written_arrives_as_meant() -> None:
    """Operators in both forms, units, lists, and the order of rules and profiles."""
    redaction = section(FULL)
    usual = redaction.profiles["usual"]
    assert redaction.key is not None
    assert redaction.key.file == PurePath("/etc/gateway/state/redaction.key")
    assert [(rule.team, rule.data_class, rule.provider, rule.profile) for rule in redaction.rules] == [
        ("research", "public", "local", "none"),
        ("legal*", "*", "*", "tight"),
    ]
    assert list(redaction.profiles) == ["tight", "usual"]
    assert (usual.mode, usual.names, usual.phone_regions) == ("shadow", "spacy", ("DE", "AT"))
    assert usual.entities["CREDIT_CARD"] == Operator(action="mask", mask=Mask(keep_last=4, char="#"))
    assert usual.entities["CRYPTO"] == Operator(action="replace", replace="[wallet]")
    assert usual.entities["US_SSN"] == Operator(action="block")
    (pattern,) = usual.patterns
    assert (pattern.regex, pattern.score, pattern.context, pattern.ignore_case) == (r"E\d{6}", 0.5, ("employee",), True)
    assert (usual.attachments.types, usual.attachments.max, usual.attachments.links) == (("image/*",), 1 << 20, False)
    assert (usual.budget, usual.on_budget, usual.on_error, usual.restore) == (0.1, "forward", "forward", False)
    assert usual.spacy is not None
    assert (usual.spacy.model, usual.spacy.language) == ("de_core_news_md", "de")


def test_without_the_section_nothing_is_looked_at() -> None:
    """And that is a None, not an empty section that might be taken for one that is on."""
    assert read("").redaction is None


def test_an_empty_section_is_the_safe_profile() -> None:
    """Enforced, fail closed, names on, no output scan: for everybody."""
    redaction = section("redaction: {}\n")
    assert (redaction.default, list(redaction.profiles), redaction.rules) == ("standard", ["standard"], ())
    standard = redaction.profiles["standard"]
    assert (standard.mode, standard.names, standard.on_budget, standard.on_error) == (
        "enforce",
        "fast",
        "refuse",
        "refuse",
    )
    assert (standard.stored_history, standard.placeholders, standard.restore) == ("refuse", "numbered", True)
    assert standard.output_operators() == {}


def test_every_kind_has_a_default() -> None:
    """Personal data become pseudonyms, secrets masks; what names too much is off."""
    assert DEFAULT_OPERATORS.keys() == KINDS
    by_action = {kind: operator.action for kind, operator in DEFAULT_OPERATORS.items()}
    assert {by_action[kind] for kind in SECRET_KINDS} == {"mask"}
    off = {kind for kind, action in by_action.items() if action == "allow"}
    assert off == {"URL", "DATE_TIME", "UUID", "LOCATION", "ORGANIZATION", "NRP"}
    assert all(by_action[kind] == "pseudonym" for kind in KINDS - SECRET_KINDS - off)


def test_what_is_written_lies_on_top_of_the_defaults() -> None:
    """Kinds of one's own get a pseudonym, also where they turn a kind on; a known kind that is added to keeps its own."""
    operators = profile(
        "{entities: {US_SSN: block}, deny: {PROJECT: [x], URL: [intern.example], API_KEY: [hunter]}, "
        "patterns: [{kind: STAFF, regex: 'E[0-9]+'}]}"
    ).operators()
    shown = {kind: operators[kind].action for kind in ("US_SSN", "PROJECT", "URL", "API_KEY", "STAFF", "EMAIL_ADDRESS")}
    assert shown == {
        "US_SSN": "block",
        "PROJECT": "pseudonym",
        "URL": "pseudonym",
        "API_KEY": "mask",
        "STAFF": "pseudonym",
        "EMAIL_ADDRESS": "pseudonym",
    }


def test_the_output_is_searched_for_what_the_profile_looks_for() -> None:
    """With `scan`'s own operator, and the kinds that say otherwise."""
    usual = section(FULL).profiles["usual"].output_operators()
    assert usual["IP_ADDRESS"].action == "mask"
    assert (usual["EMAIL_ADDRESS"].action, usual["US_SSN"].action) == ("allow", "hash")
    assert "PHONE_NUMBER" not in usual


MISTAKES = [
    ("redaction:", "redaction", "empty", "write {}"),
    ("redaction: on", "redaction", "not a section", "below it"),
    ("redaction: {defalt: a}", "redaction.defalt", "known key", "`default`"),
    ("redaction: {default: standrd}", "redaction.default", "no profile `standrd`", "`standard`"),
    ("redaction: {profiles: {none: {}}}", "redaction.profiles", "stands for no profile", "another name"),
    ("redaction: {profiles: {}}", "redaction.profiles", "too few", "at least 1"),
    ("redaction: {rules: [{team: a}]}", "redaction.rules[0].profile", "missing", "add it"),
    ("redaction: {rules: [{profile: none}]}", "redaction.rules[0]", "every call", '{team: "*"}'),
    ("redaction: {rules: [{team: a, profile: b}]}", "redaction.rules[0].profile", "no profile `b`", "known: none"),
    (
        "redaction: {rules: [{provider: locl, profile: none}]}",
        "redaction.rules[0].provider",
        "no provider `locl`",
        "`local`",
    ),
    ("redaction: {key: secret}", "redaction.key", "only by reference", "{env: NAME}"),
]

PROFILE_MISTAKES = [
    ("{mode: dry}", "mode", "choices", "enforce or shadow"),
    ("{entities: {EMAIL: mask}}", "entities.EMAIL", "nothing finds", "EMAIL_ADDRESS"),
    ("{entities: {email: mask}}", "entities.email", "not a kind", "capitals"),
    ("{entities: {A_1: mask}}", "entities.A_1", "not a kind", "no number at the end"),
    ("{entities: {LITERAL: mask}}", "entities.LITERAL", "a meaning of its own", "another word"),
    ("{entities: {US_SSN: msk}}", "entities.US_SSN", "not an operator", "{replace: text}"),
    ("{entities: {US_SSN: replace}}", "entities.US_SSN", "by what", "{replace: text}"),
    ("{entities: {US_SSN: {action: mask}}}", "entities.US_SSN", "not an operator", "{mask:"),
    ("{entities: {US_SSN: {mask: {}, replace: x}}}", "entities.US_SSN", "not an operator", "{mask:"),
    ("{entities: {US_SSN: {mask: {keep_lst: 1}}}}", "entities.US_SSN.mask.keep_lst", "known key", "`keep_last`"),
    ("{entities: {US_SSN: {mask: {keep_last: 99}}}}", "entities.US_SSN.mask.keep_last", "too large", "at most 32"),
    ("{entities: {US_SSN: {mask: {char: ab}}}}", "entities.US_SSN.mask.char", "one visible", "single"),
    ("{entities: {US_SSN: {replace: <X_1>}}}", "entities.US_SSN.replace", "placeholder", "without <"),
    ("{entities: {US_SSN: {replace: ''}}}", "entities.US_SSN.replace", "not a replacement", "1 to 100"),
    ("{entities: {US_SSN: hash}}", "entities.US_SSN", "needs a key", "key: {file:"),
    ("{placeholders: keyed}", "placeholders", "needs a key", "key: {file:"),
    ("{stored_history: keyed}", "stored_history", "needs a key", "key: {file:"),
    ("{output: {scan: mask, entities: {US_SSN: hash}}}", "output.entities.US_SSN", "needs a key", "key: {file:"),
    ("{output: {scan: mask, entities: {SSN: mask}}}", "output.entities.SSN", "nothing finds", "US_SSN"),
    ("{output: {scan: mask, entities: {PERSON: pseudonym}}}", "output", "turn back", "write mask"),
    ("{names: quick}", "names", "choices", "off, fast, strict or spacy"),
    ("{names: spacy}", "", "without a model", "add spacy"),
    ("{names: off, entities: {PERSON: mask}}", "", "wants PERSON", "set `names`"),
    ("{entities: {ORGANIZATION: mask}}", "", "spaCy finds", "set `names`"),
    ("{spacy: {model: ../evil}}", "spacy.model", "not the name", "module's name"),
    ("{phone_regions: [usa]}", "phone_regions[0]", "not a region", "ISO 3166"),
    ("{patterns: [{kind: A}]}", "patterns[0].regex", "missing", "add it"),
    ("{patterns: [{kind: A, regex: '(?=a)b'}]}", "patterns[0].regex", "linear time", "no look-ahead"),
    ("{patterns: [{kind: A, regex: '(a)\\1'}]}", "patterns[0].regex", "linear time", "no back-reference"),
    ("{patterns: [{kind: A, regex: '(a'}]}", "patterns[0].regex", "missing )", "RE2"),
    ("{patterns: [{kind: A, regex: 'a*'}]}", "patterns[0].regex", "empty text", "at least one"),
    ("{patterns: [{kind: A, regex: ''}]}", "patterns[0].regex", "empty or too long", "1 to 1000"),
    ("{patterns: [{kind: A, regex: a, score: 0}]}", "patterns[0].score", "too small", "more than 0"),
    ("{deny: {A: []}}", "deny.A", "too few", "at least 1"),
    ("{deny: {A: [' ']}}", "deny.A[0]", "empty or too long", "white space"),
    ("{allow: ['']}", "allow[0]", "empty or too long", "1 to 1000"),
    ("{attachments: {types: [PDF]}}", "attachments.types[0]", "not a media type", "application/pdf"),
    ("{budget: 250}", "budget", "not a duration", "250ms"),
    ("{budget: 61s}", "budget", "too large", "at most 60"),
    ("{on_budget: ignore}", "on_budget", "choices", "refuse or forward"),
    ("{restore: yes}", "restore", "true or false", "without quotes"),
]


@pytest.mark.parametrize(("text", "path", "reason", "hint"), MISTAKES, ids=[row[0][:50] for row in MISTAKES])
def test_a_mistake_in_the_section(text: str, path: str, reason: str, hint: str) -> None:
    """One message, at its path and line, with the cure."""
    (problem,) = mistakes(text + "\n")
    assert (problem.path, problem.line) == (path, 5)
    assert reason in problem.reason
    assert hint in problem.hint


@pytest.mark.parametrize(
    ("text", "path", "reason", "hint"), PROFILE_MISTAKES, ids=[row[0][:50] for row in PROFILE_MISTAKES]
)
def test_a_mistake_in_a_profile(text: str, path: str, reason: str, hint: str) -> None:
    """The same for what stands in a profile."""
    (problem,) = mistakes(f"redaction: {{default: p, profiles: {{p: {text}}}}}\n")
    assert problem.path == f"redaction.profiles.p.{path}".rstrip(".")
    assert problem.line == 5
    assert reason in problem.reason
    assert hint in problem.hint


def test_cross_checks_do_not_hide_behind_other_mistakes() -> None:
    """A mistake elsewhere in the file does not keep back what is wrong here."""
    found = mistakes("redaction: {default: gone}\nworkers: {count: 0}\n")
    assert [problem.path for problem in found] == ["redaction.default", "workers.count"]


def test_no_message_repeats_a_word_of_a_list_or_a_pattern() -> None:
    """What is denied or looked for may itself be confidential."""
    word = "blue" + "bird"
    for text in (
        f"{{deny: {{A: [['{word}']]}}}}",
        f"{{allow: [{{{word}: 1}}]}}",
        f"{{patterns: [{{kind: A, regex: '({word}'}}]}}",
        f"{{entities: {{US_SSN: {word}}}}}",
        f"{{entities: {{US_SSN: {{replace: '<{word}'}}}}}}",
    ):
        found = mistakes(f"redaction: {{default: p, profiles: {{p: {text}}}}}\n")
        assert all(word not in f"{problem.reason} {problem.hint}" for problem in found)


@given(st.text(max_size=30))
def test_any_text_as_a_pattern_is_taken_or_refused_with_a_cure(text: str) -> None:
    """The judge neither crashes nor lets an empty match through."""
    import json

    written = json.dumps(text, ensure_ascii=True)
    try:
        found = profile(f"{{patterns: [{{kind: A, regex: {written}}}]}}")
    except ConfigErrors as error:
        assert all(problem.hint for problem in error.errors)  # noqa: PT017  either way is right
    else:
        assert found.patterns[0].regex
