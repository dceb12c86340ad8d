"""From configuration to what exchanges run on: pure, at start and at each reload.

`ORDER` is the one place that says which policies there are and in which order a request meets them: cheapest refusal
first. The response meets them in reverse.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

import msgspec

from extproc.config.model import AccessRule, Config
from extproc.config.quotas import compile_rules
from extproc.dialects.dialect import ReadLimits
from extproc.exchange.policy import Hooks, Policy
from extproc.exchange.setup import Setup
from extproc.limits.estimates import Estimates
from extproc.limits.rules import Rules
from extproc.policies.alias import Aliases, AliasPolicy, Route, make_route
from extproc.policies.authenticate import AuthenticatePolicy
from extproc.policies.authorize import AuthorizePolicy
from extproc.policies.compile_profiles import compile_profiles
from extproc.policies.endpoint import EndpointPolicy, Surface, Surfaces
from extproc.policies.grants import Grants, Rule
from extproc.policies.meter import MeterLimits, MeterPolicy
from extproc.policies.models import ModelsPolicy, Offer, Offers
from extproc.policies.price import PricePolicy
from extproc.policies.profiles import Scanners
from extproc.policies.quota import QuotaPolicy
from extproc.policies.quota_worth import Quotas
from extproc.policies.redact import RedactPolicy
from extproc.policies.scrub import ScrubPolicy
from extproc.policies.timeouts import TimeoutClass, Timeouts, TimeoutsPolicy
from extproc.pricing.catalog import Catalog, Override
from extproc.pricing.rates import Rates

ORDER: tuple[type[Policy], ...] = (
    EndpointPolicy,
    ScrubPolicy,
    AuthenticatePolicy,
    AliasPolicy,  # before authorize: access is judged on what the name resolves to
    AuthorizePolicy,
    ModelsPolicy,
    QuotaPolicy,  # behind whatever refuses for nothing; its settling is last, when usage and cost are known
    RedactPolicy,  # on the way back behind the meter, which decodes and says when an answer is complete
    PricePolicy,
    MeterPolicy,
    TimeoutsPolicy,  # first on the way back: a piece that comes too late is not read, so the stream ends where it stood
)


# the largest answer that is held back whole; longer ones stream through as they are read
_BUFFERED: Final = 1 << 20


class Runtime(msgspec.Struct, frozen=True):
    """One compiled configuration. An exchange keeps the one it began with."""

    config: Config
    setup: Setup
    generation: int = 1


class Detection(msgspec.Struct, frozen=True):
    """What redaction runs on, made beforehand: detectors by profile, and the key of hashes and keyed pseudonyms."""

    scanners: Mapping[str, Scanners]
    key: bytes | None = None


NO_DETECTION: Final = Detection({})


def build(
    config: Config, generation: int = 1, detection: Detection = NO_DETECTION, estimates: Estimates | None = None
) -> Runtime:
    """Compile a valid configuration. Raises nothing: what can be wrong was refused by `config.load`.

    `detection` has scanners for every profile of the redaction section, or `KeyError` is raised.
    `estimates`: what was learned of models so far, kept over reloads.
    """
    profiles = compile_profiles(config.redaction, detection.scanners, detection.key)
    grants = Grants(tuple(_rule(rule) for rule in config.access))
    catalog = make_catalog(config)
    parts: dict[type[Policy], Callable[[], Policy]] = {
        EndpointPolicy: partial(EndpointPolicy, _surfaces(config)),
        ScrubPolicy: partial(ScrubPolicy, config.labels.max_length),
        AuthenticatePolicy: AuthenticatePolicy,
        AliasPolicy: partial(AliasPolicy, _aliases(config)),
        AuthorizePolicy: partial(AuthorizePolicy, grants),
        ModelsPolicy: partial(ModelsPolicy, _offers(config, catalog), grants),
        QuotaPolicy: partial(QuotaPolicy, _quotas(config, catalog, estimates or Estimates())),
        RedactPolicy: partial(RedactPolicy, profiles, _read_limits(config), detection.key),
        TimeoutsPolicy: partial(TimeoutsPolicy, _timeouts(config)),
        PricePolicy: partial(PricePolicy, catalog),
        MeterPolicy: partial(MeterPolicy, _meter_limits(config)),
    }
    factories = tuple(parts[kind] for kind in ORDER)
    return Runtime(config, Setup(factories, Hooks(ORDER), config.limits.request_body), generation)


def make_catalog(config: Config) -> Catalog:
    """What tokens cost at the providers of a configuration."""
    return Catalog(_overrides(config), {name: provider.api for name, provider in config.providers.items()})


def _read_limits(config: Config) -> ReadLimits:
    return ReadLimits(config.limits.response_body, config.limits.stream_event)


def _meter_limits(config: Config) -> MeterLimits:
    limits = config.limits
    return MeterLimits(limits.response_body, limits.stream_event, min(_BUFFERED, limits.request_body))


def _rule(rule: AccessRule) -> Rule:
    return Rule(rule.team, rule.app, rule.tenant, rule.models, rule.providers, rule.endpoints)


def _quotas(config: Config, catalog: Catalog, estimates: Estimates) -> Quotas | None:
    given = config.quotas
    if given is None:
        return None
    return Quotas(
        rules=Rules(compile_rules(given)),
        estimates=estimates,
        catalog=catalog,
        organisation=given.organisation,
        output_tokens=tuple(given.output_tokens.items()),
        exact_input=given.exact_input,
        price_needed=given.unknown_price == "deny",
        headers=given.headers,
    )


def _surfaces(config: Config) -> Surfaces:
    by_host: dict[str, Surface] = {}
    by_name: dict[str, Surface] = {}
    first_by_api: dict[str, Surface] = {}
    for name, provider in config.providers.items():
        surface = Surface(name, provider.api, provider.unknown_paths == "passthrough")
        by_name[name] = surface
        first_by_api.setdefault(provider.api, surface)
        by_host.update(dict.fromkeys(provider.hosts, surface))
    return Surfaces(by_host, by_name, first_by_api)


def _route(config: Config, names: tuple[str, ...]) -> Route:
    clusters = tuple((name, config.cluster(name)) for name in names)
    return make_route(names[0], config.providers[names[0]].api, clusters)


def _aliases(config: Config) -> Aliases:
    by_name = {
        name: (_route(config, (alias.provider, *alias.fallback)), alias.model) for name, alias in config.aliases.items()
    }
    return Aliases(by_name, {name: _route(config, (name,)) for name in config.providers})


def _offers(config: Config, catalog: Catalog) -> Offers:
    offers = [
        Offer(name, alias.provider, config.providers[alias.provider].api, alias.model, alias=True)
        for name, alias in config.aliases.items()
    ]
    for name, provider in config.providers.items():
        names = dict.fromkeys((*provider.models, *catalog.names(name)))
        offers += [Offer(model, name, provider.api, model) for model in names if model not in config.aliases]
    return Offers(tuple(offers))


def _timeouts(config: Config) -> Timeouts:
    classes = {
        name: TimeoutClass(name, given.first_byte, given.total) for name, given in config.timeouts.classes.items()
    }
    by_model = tuple((glob, classes[name]) for glob, name in config.timeouts.models.items())
    return Timeouts(classes[config.timeouts.default], by_model)


def _overrides(config: Config) -> tuple[Override, ...]:
    return tuple(
        Override(
            given.provider,
            given.model,
            Rates(
                input=given.input,
                output=given.output,
                cached_input=given.cached_input,
                cache_write=given.cache_write,
                reasoning=given.reasoning,
            ),
        )
        for given in config.pricing.overrides
    )
