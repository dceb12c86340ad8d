"""The catalogue of vendor formats of the package `kingfisher-secret-scanner`, read when needed and curated here.

Nothing of it is copied: the rules are those of the installed version. Loading the package's native library and
compiling its rules takes seconds and tens of megabytes, so that what is needed of it (patterns and thresholds) is kept
in the store under the package's version; a worker that finds it there does not import the package.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any, Final

import msgspec

from extproc.text import DatabaseStore

PACKAGE: Final = "kingfisher-secret-scanner"
_LAYOUT: Final = 1  # of `CatalogueRule`; part of the key in the store

_IDENTIFIER: Final = "an identifier or a host, which is no secret, in a shape that ordinary text has too"
_DOCUMENT: Final = "takes a whole document for the secret; what is secret in it is found by rules of our own"
_OWN: Final = "a rule of our own does it with a tighter judge"
_BYTES: Final = "written for bytes, and matches any hexadecimal or long word"
_BROAD: Final = "its name part is any `key`, `secret` or `token`; the rules for assignments judge these"


def _because(reason: str, identifiers: str) -> dict[str, str]:
    return dict.fromkeys(identifiers.split(), reason)


EXCLUDED: Final[dict[str, str]] = {
    **_because(
        _IDENTIFIER,
        "adobe-client-id algolia-application-id artifactory-jfrog-url asana-client-id auth0-client-id.1 auth0-domain.1 "
        "azure-client-id azure-storage-account-name azure-tenant-id bitbucket-client-id browserstack-username.1 "
        "clickhouse-cloud-key-id cloudflare-account-id.1 cloudinary-api-key cloudinary-cloud-name discord-client-id "
        "ebay-client-id lark-app-id linkedin-client-id looker-client-id messagebird-client-id miro-client-id "
        "mux-access-token-id.1 paypal-client-id.1 plaid-client-id planetscale-id plivo-auth-id polymarket-address "
        "polymarket-passphrase salesforce-instance-url.1 sendbird-access-id snowflake-account-host.1 "
        "supabase-project-url tableau-personal-access-token-name.1 tableau-server-host.1 upstash-redis-rest-url.1 "
        "wiz-client-id.1 zoho-client-id.1 ovh-application-key veles.secrets/hcpclientcredentials-client-id "
        "veles.secrets/packagistorgreadtoken-repository veles.secrets/packagistorgupdatetoken-repository",
    ),
    **_because(_DOCUMENT, "gcp-application-default-credentials gcp-service-account kubernetes-secret-yaml"),
    **_because(
        _OWN,
        "generic-credential-uri mongodb-connection-string jwt jwt-base64 private-key curl-auth-header curl-auth-user "
        "hashicorp-tf-password aws-session-token telegram-bot-api-token vault-service-token "
        "veles.secrets/bitbucketcredentials veles.secrets/codecatalystcredentials veles.secrets/codecommitcredentials",
    ),
    **_because(_BYTES, "deepseek-api-key kimi-api-key voyageai-api-key zai-api-key"),
    **_because(_BROAD, "alibaba-secret-key alibaba-sts-access-key-secret aws-secret-access-key"),
}
"""Ids (without the source's prefix `betterleaks.`) that are left out, and why."""

# What may follow a key, as most rules of the catalogue have it: a quote, a space, a semicolon. Keys in prose end in full
# stops, commas and brackets as well.
_ENDS: Final = (
    r"""(?:\\?['"\x60]|[\s;]|\\[nr]|$)""",
    r"""(?:[\x60'"\s;]|\\[nr]|$|\b)""",
)
_END: Final = r"(?:[^0-9A-Za-z_/+-]|$)"
_LONG: Final = re.compile(r"\{(\d+),\d{4,}\}")  # RE2 counts to 1,000
_INLINE: Final = "(?x)"  # free spacing: RE2 has no such mode


class CatalogueRule(msgspec.Struct, frozen=True, array_like=True):
    """What is used of one rule: `entropy` is the least (bits a character) of the value, `require` must match it."""

    id: str
    pattern: str
    entropy: float = 0.0
    group: int = 0
    require: tuple[str, ...] = ()


def catalogue(store: DatabaseStore | None) -> tuple[CatalogueRule, ...]:
    """The curated rules of the installed package, from the store where they are there."""
    key = f"secret-catalogue-{_LAYOUT}-{version(PACKAGE)}"
    data = store.get(key) if store is not None else None
    if data is not None:
        try:
            return _curated(msgspec.msgpack.decode(data, type=tuple[CatalogueRule, ...]))
        except msgspec.DecodeError:  # of no use: as good as absent
            pass
    rules = read_package()
    if store is not None:
        store.put(key, msgspec.msgpack.encode(rules))
    return _curated(rules)


def read_package() -> tuple[CatalogueRule, ...]:
    """All rules of the installed package, whatever their confidence. Takes about three seconds and 60 MB."""
    import kingfisher_sdk

    rules = kingfisher_sdk.Rules(confidence="low", cache=False)  # its own cache would be written to the home directory
    return tuple(rule for entry in rules.metadata() if (rule := _read(rules.detail(entry["id"]))) is not None)


def short_id(identifier: str) -> str:
    """The id without the prefix that nearly all have."""
    return identifier.removeprefix("betterleaks.")


def _curated(rules: tuple[CatalogueRule, ...]) -> tuple[CatalogueRule, ...]:
    return tuple(
        msgspec.structs.replace(rule, pattern=_widened(rule.pattern))
        for rule in rules
        if short_id(rule.id) not in EXCLUDED
    )


def _widened(pattern: str) -> str:
    pattern = _LONG.sub(r"{\1,}", pattern)
    for end in _ENDS:
        if pattern.endswith(end):
            return pattern.removesuffix(end) + _END
    return pattern


def _read(detail: dict[str, Any]) -> CatalogueRule | None:
    """None for a rule that its own filter always drops, because another took its place."""
    entropy, require = 0.0, []
    for condition in _alternatives(detail["betterleaks_filter"]):
        match condition:
            case {"kind": "bool", "value": True}:
                return None
            case {
                "kind": "binary",
                "operator": "<" | "<=",
                "left": {"kind": "call", "callee": {"value": "entropy"}},
                "right": {"value": limit},
            }:
                entropy = float(limit)
            case {
                "kind": "unary",
                "operator": "!",
                "node": {
                    "kind": "call",
                    "callee": {"value": "matchesAny"},
                    "arguments": [_, {"nodes": [{"value": one}]}],
                },
            }:
                require.append(str(one))
    pattern = str(detail["detection_regex"])
    if pattern.startswith(_INLINE):
        pattern = "".join(pattern.removeprefix(_INLINE).split())
    return CatalogueRule(
        id=str(detail["id"]),
        pattern=pattern,
        entropy=entropy,
        group=int(detail["betterleaks_secret_group"] or 0),
        require=tuple(require),
    )


def _alternatives(node: Any) -> Iterator[Any]:
    """The operands of a tree of `||`: a finding is dropped where one of them holds."""
    match node:
        case {"kind": "binary", "operator": "||", "left": left, "right": right}:
            yield from _alternatives(left)
            yield from _alternatives(right)
        case None:
            return
        case _:
            yield node
