"""Where calls go: providers, aliases, prices."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from extproc.config.units import (
    Address,
    ClusterName,
    FilePath,
    Glob,
    Host,
    Kind,
    ModelName,
    Name,
    SecretRef,
    Section,
    bad,
)

_PROXY: Final = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?):\d{1,5}")


def _distinct(values: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(values)) != len(values):
        raise bad("names something twice", "keep each entry once")
    return values


def _price(value: Decimal) -> Decimal:
    if not value.is_finite() or value < 0:
        raise bad("is not a price", "write US dollars per million tokens, 0 or more: 2.50")
    return value


Price = Annotated[Decimal, AfterValidator(_price), Kind("US dollars per million tokens")]


def _proxy(value: str) -> str:
    host = value.removeprefix("http://").removesuffix("/")
    if (
        not value.startswith("http://")
        or _PROXY.fullmatch(host) is None
        or not 0 < int(host.rpartition(":")[2]) < 65536
    ):
        raise bad("is not an HTTP proxy", "write scheme, host and port, without credentials: http://proxy.example:3128")
    return f"http://{host}"


ProxyUrl = Annotated[str, AfterValidator(_proxy), Kind("http://host:port")]


class Upstream(Section):
    """Another way for a provider's calls: a test vendor, a private link, a corporate egress proxy."""

    address: Address | None = Field(
        default=None, description="Host and port to connect to, by TLS; default: the first host, port 443."
    )
    ca: FilePath | None = Field(
        default=None, description="CA certificate (PEM) that signs the upstream; default: the system's."
    )
    server_name: Host | None = Field(
        default=None, description="Name asked for by SNI and required in the certificate; default: the first host."
    )
    proxy: ProxyUrl | None = Field(
        default=None,
        description="HTTP proxy that the address is asked for with CONNECT. TLS goes through it to the provider; it may decide "
        "by name, and the gateway needs no outside DNS. One that wants credentials is not supported.",
    )

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.address is None and self.proxy is None:
            raise bad("has neither `address` nor `proxy`", "give one of them, or leave `upstream` out")
        return self


class Provider(Section):
    """One vendor account behind one Envoy cluster."""

    api: Literal["openai", "anthropic"] = Field(description="Whose wire format and error shape the provider speaks.")
    hosts: Annotated[tuple[Host, ...], AfterValidator(_distinct)] = Field(
        default=(),
        max_length=32,
        description="The names that apps call. May be empty for a provider that is reached by alias or fallback only.",
    )
    cluster: ClusterName | None = Field(
        default=None, description="Envoy cluster of the outer hop; default: the provider's name."
    )
    credential: SecretRef | None = Field(
        default=None,
        description="The vendor's key. Read by `extproc up` only, which hands it to Envoy's SDS file; never read by a worker.",
    )
    upstream: Upstream | None = Field(
        default=None, description="Point the provider elsewhere. Read by `extproc up` only."
    )
    models: Annotated[tuple[ModelName, ...], AfterValidator(_distinct)] = Field(
        default=(),
        max_length=1000,
        description="Model names to show in GET /v1/models beside those of the price catalogue.",
    )
    unknown_paths: Literal["refuse", "passthrough"] = Field(
        default="refuse",
        description="What to do with a path that no dialect knows: refuse it, or pass it through unread, metered by bytes.",
    )


class Alias(Section):
    """A model name of ours that stands for a provider's model."""

    provider: Name = Field(description="The provider to call first.")
    model: ModelName = Field(description="The model name that goes to the provider.")
    fallback: Annotated[tuple[Name, ...], AfterValidator(_distinct)] = Field(
        default=(),
        max_length=8,
        description="Providers to try next, in order. They take the same model name and must have the same `api`.",
    )

    @model_validator(mode="after")
    def _moves_on(self) -> Self:
        if self.provider in self.fallback:
            raise bad("falls back to its own provider", "remove it from `fallback`: Envoy retries within a provider")
        return self


class PriceOverride(Section):
    """Rates that win over the catalogue: a contract price, or a model that it does not know."""

    provider: Name = Field(description="The provider whose models these rates are for.")
    model: Glob = Field(description="Pattern on the resolved model name. The first override that matches wins.")
    input: Price = Field(description="Rate of input tokens that came from no cache.")
    output: Price = Field(description="Rate of output tokens.")
    cached_input: Price | None = Field(
        default=None, description="Rate of input tokens read from the provider's cache; default: as `input`."
    )
    cache_write: Price | None = Field(
        default=None, description="Rate of input tokens written to the provider's cache; default: as `input`."
    )
    reasoning: Price | None = Field(default=None, description="Rate of reasoning tokens; default: as `output`.")


class Pricing(Section):
    """What tokens cost. The catalogue is built in; here is what differs from it."""

    overrides: tuple[PriceOverride, ...] = Field(
        default=(), max_length=1000, description="Rates that win over the catalogue, first match first."
    )
