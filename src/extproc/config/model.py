"""`gateway.yaml`, version 1, as it is in memory: frozen, strict, every default in place.

Sizes are bytes, durations seconds, file paths joined to the folder of the file. Rules that span sections (an alias's
provider exists) are in `checks`; rules within one section are here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from extproc.config.providers import Alias, Pricing, Provider
from extproc.config.quotas import Quotas
from extproc.config.redaction import Redaction
from extproc.config.units import (
    Address,
    Duration,
    FilePath,
    Glob,
    Host,
    ModelName,
    Name,
    SecretRef,
    Section,
    Size,
    bad,
)

GIB = 1 << 30


class Keys(Section):
    """The store of virtual keys."""

    file: FilePath = Field(
        default=PurePath("keys.json"),
        description="The key file; written by `extproc keys`, watched.",
    )
    pepper: SecretRef = Field(
        default=SecretRef(file=PurePath("pepper")),
        description="Secret of at least 32 bytes that the digests of keys are made with. A change makes all keys void.",
    )


class AccessRule(Section):
    """Who may call what. Rules that match the caller add up; what no rule allows is refused."""

    team: Glob = Field(default="*", description="Pattern on the caller's team.")
    app: Glob = Field(default="*", description="Pattern on the caller's app.")
    tenant: Glob = Field(default="*", description="Pattern on the caller's tenant.")
    models: tuple[Glob, ...] = Field(
        default=("*",), min_length=1, description="Patterns on the model, as requested or as resolved."
    )
    providers: tuple[Glob, ...] = Field(default=("*",), min_length=1, description="Patterns on the provider.")
    endpoints: tuple[Glob, ...] = Field(default=("*",), min_length=1, description="Patterns on the dialect's name.")

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.model_fields_set:
            raise bad("is empty", 'an empty rule would allow everybody everything; to mean that, write {team: "*"}')
        return self


class Limits(Section):
    """Size caps. A body over its cap is refused, never read in part."""

    request_body: Size = Field(default=32 << 20, ge=1024, le=GIB, description="Largest request body.")
    response_body: Size = Field(
        default=64 << 20, ge=1024, le=GIB, description="Largest response body that is held to be read as a whole."
    )
    stream_event: Size = Field(default=1 << 20, ge=1024, le=GIB, description="Largest single event of a stream.")

    @model_validator(mode="after")
    def _event_fits(self) -> Self:
        if self.stream_event > self.response_body:
            raise bad("stream_event is larger than response_body", "lower `stream_event` or raise `response_body`")
        return self


class TimeoutClass(Section):
    """How long a call may take, in the three ways that matter for a model."""

    first_byte: Duration = Field(default=120.0, gt=0, le=86400, description="Wait for the first byte of the answer.")
    idle: Duration = Field(
        default=300.0,
        gt=0,
        le=86400,
        description="Longest silence. Envoy counts it from the request on, so it must be at least `first_byte`.",
    )
    total: Duration = Field(default=600.0, gt=0, le=86400, description="The whole call, stream included.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.idle < self.first_byte:
            raise bad(
                "idle is shorter than first_byte",
                "raise `idle`: Envoy's idle timer also runs while waiting for the first byte",
            )
        if self.total < self.first_byte:
            raise bad("total is shorter than first_byte", "raise `total` or lower `first_byte`")
        return self


class Timeouts(Section):
    """Timeout classes and which model takes which."""

    default: Name = Field(default="standard", description="Class of models that no pattern names.")
    classes: Mapping[Name, TimeoutClass] = Field(
        default={"standard": TimeoutClass(), "long": TimeoutClass(first_byte=600.0, idle=900.0, total=3600.0)},
        min_length=1,
        max_length=32,
        description="The classes by name. Written ones replace the defaults `standard` and `long`.",
    )
    models: Mapping[Glob, Name] = Field(
        default={}, max_length=1000, description="Pattern on the resolved model -> class. The first that matches wins."
    )


class Labels(Section):
    """Bounds for what callers may write into labels (`x-llm-feature`, `x-llm-user`, ...): their own word, which nobody checks."""

    max_length: int = Field(default=64, ge=1, le=256, description="Longest label value, in characters.")
    metric_values: int = Field(
        default=200,
        ge=1,
        le=100_000,
        description="Distinct values of one label in metrics; more are counted as `other`.",
    )


class Interception(Section):
    """The certificates that stand in for the vendors'."""

    leaf_life: Duration = Field(
        default=86_400.0,
        ge=60,
        le=7_776_000,
        description="Life of a certificate; it is renewed after two thirds of it.",
    )
    names: tuple[Host, ...] = Field(
        default=(), max_length=100, description="Further names of this gateway itself, for base URLs over TLS."
    )
    minting: bool = Field(
        default=False,
        description="Make each certificate when the first app asks for its name, in memory only, instead of files. Envoy then"
        " has one filter chain for all hosts, and a name that is no host of a provider ends in a TLS alert.",
    )


class Workers(Section):
    """The sidecar's processes."""

    count: int = Field(default=2, ge=1, le=256, description="Worker processes, each on its own Unix socket.")
    drain: Duration = Field(default=600.0, gt=0, le=86400, description="Time for open streams to finish at shutdown.")


class Metrics(Section):
    """The Prometheus endpoint, one for all workers."""

    address: Address = Field(default="127.0.0.1:9464", description="Where to listen.")


class Log(Section):
    """The log on standard error."""

    format: Literal["json", "console"] = Field(default="json", description="One JSON object a line, or for human eyes.")
    level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Least level to write.")


class Config(Section):
    """A whole `gateway.yaml`."""

    version: Literal[1] = Field(description="Version of this file's format.")
    providers: Mapping[Name, Provider] = Field(min_length=1, max_length=256, description="The vendors, by name.")
    keys: Keys = Field(default=Keys(), description="The store of virtual keys.")
    access: tuple[AccessRule, ...] = Field(
        default=(), max_length=10_000, description="Who may call what. Nothing written: nobody may call anything."
    )
    aliases: Mapping[ModelName, Alias] = Field(
        default={}, max_length=1000, description="Model names of ours, by name. A vendor's own model name may be one."
    )
    limits: Limits = Field(default=Limits(), description="Size caps.")
    timeouts: Timeouts = Field(default=Timeouts(), description="Timeout classes and which model takes which.")
    labels: Labels = Field(default=Labels(), description="Bounds for labels.")
    redaction: Redaction | None = Field(
        default=None, description="What may not leave. Nothing written: nothing is looked at; `{}`: the defaults."
    )
    quotas: Quotas | None = Field(default=None, description="Limits and budgets. Nothing written: nothing is limited.")
    pricing: Pricing = Field(default=Pricing(), description="What tokens cost.")
    interception: Interception = Field(
        default=Interception(), description="The certificates that stand in for the vendors'."
    )
    workers: Workers = Field(default=Workers(), description="The sidecar's processes.")
    metrics: Metrics = Field(default=Metrics(), description="The Prometheus endpoint.")
    log: Log = Field(default=Log(), description="The log.")

    @field_validator("redaction", mode="after")
    @classmethod
    def _not_half_written(cls, written: Redaction | None) -> Redaction | None:
        if written is None:  # a section whose lines are all comments must not turn the search off
            raise bad("is empty", "write {} for the defaults, or take the line out to look at nothing")
        return written

    @field_validator("quotas", mode="after")
    @classmethod
    def _not_without_limits(cls, written: Quotas | None) -> Quotas | None:
        if written is None:
            raise bad("is empty", "write `rules`, or take the line out to limit nothing")
        return written

    def cluster(self, provider: str) -> str:
        """Name the Envoy cluster of a provider. Raises KeyError for an unknown one."""
        return self.providers[provider].cluster or provider
