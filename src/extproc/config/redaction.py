"""What may not leave: profiles of detectors and operators, and the rules by which a call gets one.

Names of entities are Presidio's (https://microsoft.github.io/presidio/supported_entities/); the kinds of secrets are our
own. What is written here is compiled by `runtime`; what can be judged without the detectors is judged here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Final, Literal, Self, TypeAlias

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from extproc.config.units import Duration, Glob, Kind, Name, SecretRef, Section, Size, bad

NO_PROFILE: Final = "none"
"""What stands for no profile: nothing is looked at."""

Action: TypeAlias = Literal["mask", "replace", "hash", "pseudonym", "block", "allow"]

NAME_KINDS: Final = frozenset({"PERSON", "LOCATION"})
"""Found by the name models only, whichever of them is on."""
SPACY_KINDS: Final = frozenset({"ORGANIZATION", "NRP"})
SECRET_KINDS: Final = frozenset({"API_KEY", "PRIVATE_KEY", "JWT", "CONNECTION_STRING", "PASSWORD", "BEARER_TOKEN"})
_PERSONAL: Final = frozenset(
    {
        *("EMAIL_ADDRESS", "PHONE_NUMBER", "CREDIT_CARD", "IBAN_CODE", "IP_ADDRESS", "MAC_ADDRESS", "CRYPTO"),
        *("US_SSN", "US_ITIN", "US_PASSPORT", "US_DRIVER_LICENSE", "US_BANK_NUMBER"),
        *("UK_NHS", "UK_NINO", "MEDICAL_LICENSE", "PERSON"),
    }
)
_OFF: Final = frozenset({"URL", "DATE_TIME", "UUID", "LOCATION", *SPACY_KINDS})
KINDS: Final = _PERSONAL | SECRET_KINDS | _OFF
"""Every kind that a detector of ours finds."""
RESERVED_KIND: Final = "LITERAL"
"""The placeholders of texts that look like placeholders themselves are of this kind."""

_KIND: Final = re.compile(r"(?!.*_[0-9]+$)[A-Z][A-Z0-9_]{0,31}")
_REGION: Final = re.compile(r"[A-Z]{2}")
_MIME: Final = re.compile(r"(?:\*/\*|[a-z]{1,20}/(?:\*|[a-z0-9][a-z0-9.+-]{0,99}))")
_SPACY: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{1,99}")
_LANGUAGE: Final = re.compile(r"[a-z]{2,3}")
_MAX_PATTERN: Final = 1000
_MAX_TERM: Final = 1000


def _entity_kind(value: str) -> str:
    if _KIND.fullmatch(value) is None:
        raise bad(
            "is not a kind of entity", "write up to 32 capitals, digits and _, with no number at the end: EMPLOYEE_ID"
        )
    if value == RESERVED_KIND:
        raise bad(f"{RESERVED_KIND} has a meaning of its own", "choose another word for this kind")
    return value


def _plain_replacement(value: str) -> str:
    if not 1 <= len(value) <= 100 or not value.isprintable():
        raise bad("is not a replacement", "write 1 to 100 printable characters: [wallet]")
    if "<" in value or ">" in value:
        raise bad("looks like a placeholder", "write it without < and >: [wallet]")
    return value


def _one_character(value: str) -> str:
    if len(value) != 1 or not value.isprintable() or value.isspace():
        raise bad("is not one visible character", 'write a single one: "*"')
    return value


def _linear(value: str) -> str:
    """Judge an operator's pattern with the engine that will run it, which takes linear time or refuses."""
    import re2  # no stubs; imported where patterns are written only

    if not 1 <= len(value) <= _MAX_PATTERN:
        raise bad("is empty or too long", f"write 1 to {_MAX_PATTERN} characters")
    options = re2.Options()
    options.log_errors = False
    try:
        compiled = re2.compile(value, options)
    except re2.error as error:
        told = error.args[0] if error.args else b""
        reason = (told.decode("utf-8", "replace") if isinstance(told, bytes) else str(told)).partition(":")[0]
        raise bad(
            f"is not a pattern that can be matched in linear time: {reason}",
            "write RE2's syntax: no look-ahead, no look-behind, no back-reference, no repetition over 1000",
        ) from None
    if compiled.fullmatch("") is not None:
        raise bad("matches the empty text", "let it match at least one character: + for *, no ? around all of it")
    return value


def _term(value: str) -> str:
    if not value.strip() or len(value) > _MAX_TERM:
        raise bad("is empty or too long", f"write 1 to {_MAX_TERM} characters that are not all white space")
    return value


def _some(values: tuple[str, ...]) -> tuple[str, ...]:
    """Not as a bound of the field's: pydantic takes a list whose items are wrong for an empty one."""
    if not values:
        raise bad("has too few entries", "at least 1")
    return values


def _of_form(pattern: re.Pattern[str], reason: str, hint: str) -> AfterValidator:
    def check(value: str) -> str:
        if pattern.fullmatch(value) is None:
            raise bad(reason, hint)
        return value

    return AfterValidator(check)


EntityKind = Annotated[str, AfterValidator(_entity_kind), Kind("kind of entity")]
Term = Annotated[str, AfterValidator(_term), Kind("text")]
Region = Annotated[
    str,
    _of_form(_REGION, "is not a region", "write the two capitals of ISO 3166: US, GB, DE"),
    Kind("region"),
]
MimeType = Annotated[
    str,
    _of_form(_MIME, "is not a media type", "write it in lower case: application/pdf, image/*"),
    Kind("media type"),
]


class Mask(Section):
    """How a value is covered: each character becomes `char`, but for the last few."""

    keep_last: int = Field(default=0, ge=0, le=32, description="Characters at the end that stay legible.")
    char: Annotated[str, AfterValidator(_one_character)] = Field(default="*", description="What covers a character.")


class Operator(Section):
    """What becomes of an entity. Written as a word, or as one key with its value."""

    action: Action = Field(description="The operator.")
    mask: Mask = Field(default=Mask(), description="How `mask` covers.")
    replace: Annotated[str, AfterValidator(_plain_replacement)] = Field(
        default="", description="The text that `replace` writes."
    )

    @model_validator(mode="before")
    @classmethod
    def _from_short_form(cls, data: object, info: ValidationInfo) -> object:
        if isinstance(data, cls) or info.mode == "python":
            return data  # code makes operators by their fields
        if data == "replace":
            raise bad("does not say by what", "write {replace: text}")
        if isinstance(data, str) and data in _WORDS:
            return {"action": data}
        if isinstance(data, dict) and len(data) == 1 and next(iter(data)) in {"mask", "replace"}:
            return {"action": next(iter(data)), **data}
        raise bad(
            "is not an operator",
            "write mask, hash, pseudonym, block or allow, or {mask: {keep_last: 4}}, or {replace: text}",
        )


_WORDS: Final = frozenset({"mask", "hash", "pseudonym", "block", "allow"})

AnOperator = Annotated[Operator, Kind("operator")]

DEFAULT_OPERATORS: Final[Mapping[str, Operator]] = MappingProxyType(
    {
        **{kind: Operator(action="pseudonym") for kind in sorted(_PERSONAL)},
        **{kind: Operator(action="mask") for kind in sorted(SECRET_KINDS)},
        **{kind: Operator(action="allow") for kind in sorted(_OFF)},
    }
)
"""What becomes of each kind where a profile says nothing."""


class CustomPattern(Section):
    """A pattern of one's own."""

    kind: EntityKind = Field(description="The kind of what it finds: a new one, or one that is known.")
    regex: Annotated[str, AfterValidator(_linear)] = Field(
        description="The pattern, in RE2's syntax, which is matched in linear time."
    )
    score: float = Field(
        default=0.8, gt=0, le=1, description="How sure a match is, from 0 to 1; less than 0.4 needs context."
    )
    context: tuple[Term, ...] = Field(default=(), max_length=100, description="Words nearby that make a match surer.")
    ignore_case: bool = Field(default=False, description="Whether capitals and small letters are the same.")


class SpacyModel(Section):
    """The model for `names: spacy`. It must be installed; none is ever downloaded."""

    model: Annotated[
        str, _of_form(_SPACY, "is not the name of a model's package", "write the module's name: de_core_news_md")
    ] = Field(description="Module name of the installed model.")
    language: Annotated[str, _of_form(_LANGUAGE, "is not a language", "write its ISO 639 code: de")] = Field(
        default="en", description="The language that the model is for."
    )


class Attachments(Section):
    """Files and images that go along. They are not searched: here is what may go at all."""

    types: tuple[MimeType, ...] = Field(
        default=("image/*", "audio/*", "application/pdf"),
        max_length=100,
        description="Media types of inline files that may go on.",
    )
    max: Size = Field(default=20 << 20, ge=0, le=1 << 30, description="Largest inline file, decoded.")
    links: bool = Field(default=True, description="Whether links to files that the vendor would fetch may go on.")


class Output(Section):
    """A search of what the model itself says, before originals are put back."""

    scan: Literal["off", "mask", "block"] = Field(
        default="off", description="What becomes of what is found; `block` ends the answer."
    )
    entities: Mapping[EntityKind, AnOperator] = Field(
        default={},
        max_length=200,
        description="Operators by kind, on top of `scan` for the kinds that the profile looks for.",
    )

    @model_validator(mode="after")
    def _nothing_to_restore(self) -> Self:
        if any(operator.action == "pseudonym" for operator in self.entities.values()):
            raise bad("has a pseudonym, which nobody could turn back", "write mask, replace, hash, block or allow")
        return self


class Profile(Section):
    """What is looked for, and what becomes of it."""

    mode: Literal["enforce", "shadow"] = Field(
        default="enforce", description="`shadow`: find and record, change and refuse nothing."
    )
    entities: Mapping[EntityKind, AnOperator] = Field(
        default={}, max_length=200, description="Operators by kind, on top of the defaults (see above)."
    )
    names: Literal["off", "fast", "strict", "spacy"] = Field(
        default="fast",
        description="Which model finds names: a small one, a transformer on what the small one suspects, spaCy, or none.",
    )
    spacy: SpacyModel | None = Field(default=None, description="The model for `names: spacy`.")
    phone_regions: tuple[Region, ...] = Field(
        default=("US", "GB", "DE", "FR"),
        max_length=50,
        description="Countries whose national phone numbers are found; international ones (+44 …) always are. Each costs time.",
    )
    patterns: tuple[CustomPattern, ...] = Field(default=(), max_length=500, description="Patterns of one's own.")
    deny: Mapping[EntityKind, Annotated[tuple[Term, ...], Field(max_length=10_000), AfterValidator(_some)]] = Field(
        default={}, max_length=100, description="Words that are always found, by the kind that they are."
    )
    allow: tuple[Term, ...] = Field(
        default=(), max_length=10_000, description="Values that are never an entity, whatever they look like."
    )
    placeholders: Literal["numbered", "keyed"] = Field(
        default="numbered",
        description="Pseudonyms count by first appearance in the request, or are the same for a tenant in all its chats.",
    )
    stored_history: Literal["refuse", "keyed"] = Field(
        default="refuse",
        description="Calls that lean on what the vendor stored: refuse them, or give them pseudonyms keyed by tenant.",
    )
    attachments: Attachments = Field(default=Attachments(), description="Files and images.")
    argument_keys: bool = Field(default=False, description="Whether the keys in arguments of tools are searched too.")
    budget: Duration = Field(default=0.25, gt=0, le=60, description="Longest search of one request.")
    on_budget: Literal["refuse", "forward"] = Field(
        default="refuse",
        description="A search that takes longer: refuse the call, or let it go unsearched (record, metric and header say so).",
    )
    on_error: Literal["refuse", "forward"] = Field(
        default="refuse", description="A detector that fails: refuse the call, or let it go unsearched, as above."
    )
    restore: bool = Field(
        default=True, description="Whether the answer gets the originals back in place of pseudonyms."
    )
    output: Output = Field(default=Output(), description="A search of the answer.")

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        if self.names == "spacy" and self.spacy is None:
            raise bad("has `names: spacy` without a model", "add spacy: {model: de_core_news_md, language: de}")
        wanted = {kind for kind, operator in self.entities.items() if operator.action != "allow"} - self.own_kinds()
        idle = wanted & (SPACY_KINDS if self.names != "spacy" else frozenset())
        if self.names == "off":
            idle |= wanted & NAME_KINDS
        if idle:
            engine = "a name model" if idle <= NAME_KINDS else "spaCy"
            raise bad(f"wants {', '.join(sorted(idle))}, which {engine} finds", "set `names`, or take the kind out")
        return self

    def own_kinds(self) -> frozenset[str]:
        """The kinds that `patterns` and `deny` define or add to."""
        return frozenset((*(pattern.kind for pattern in self.patterns), *self.deny))

    def operators(self) -> dict[str, Operator]:
        """Every kind that can occur here, with what becomes of it; kinds of one's own get a pseudonym by default."""
        on = {kind: operator for kind, operator in DEFAULT_OPERATORS.items() if operator.action != "allow"}
        added = {kind: Operator(action="pseudonym") for kind in self.own_kinds()}  # turns on a kind that is off
        return {**DEFAULT_OPERATORS, **added, **on, **self.entities}

    def output_operators(self) -> dict[str, Operator]:
        """As `operators`, for what the model says; empty where that is not searched."""
        if self.output.scan == "off":
            return {}
        action: Operator = Operator(action=self.output.scan)
        wanted = {kind: action for kind, operator in self.operators().items() if operator.action != "allow"}
        return {**wanted, **self.output.entities}


class RedactionRule(Section):
    """Which calls get a profile. A rule must name one thing at least beside it."""

    team: Glob = Field(default="*", description="Pattern on the caller's team.")
    app: Glob = Field(default="*", description="Pattern on the caller's app.")
    tenant: Glob = Field(default="*", description="Pattern on the caller's tenant.")
    data_class: Glob = Field(
        default="*",
        description="Pattern on the label `x-llm-data-class`. It is the caller's own word, so it makes a profile stricter only: "
        "rules are judged with and without it.",
    )
    provider: Glob = Field(default="*", description="Pattern on the provider.")
    profile: Name = Field(description="The profile, or `none`: nothing is looked at.")

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.model_fields_set <= {"profile"}:
            raise bad("matches every call", 'write `default` for that, or, to mean it, {team: "*"}')
        return self


class Redaction(Section):
    """What may not leave. Without this section nothing is looked at."""

    key: SecretRef | None = Field(
        default=None,
        description="Secret of at least 32 bytes for hashes and keyed pseudonyms; `extproc up` makes the file. "
        "A change gives all of them other values.",
    )
    default: Name = Field(
        default="standard", description="Profile of calls that no rule matches; `none`: nothing is looked at."
    )
    rules: tuple[RedactionRule, ...] = Field(
        default=(),
        max_length=10_000,
        description="Who gets which profile, first match first. Judged for each provider that a call may end up at: the "
        "strictest profile holds, which is the one that stands first in `profiles`.",
    )
    profiles: Mapping[Name, Profile] = Field(
        default={"standard": Profile()},
        min_length=1,
        max_length=64,
        description="The profiles by name, the strictest first. Written ones replace the default `standard`.",
    )

    @field_validator("profiles", mode="after")
    @classmethod
    def _none_is_taken(cls, profiles: Mapping[str, Profile]) -> Mapping[str, Profile]:
        if NO_PROFILE in profiles:
            raise bad(f"`{NO_PROFILE}` stands for no profile at all", "give the profile another name")
        return profiles
