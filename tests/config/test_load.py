"""gateway.yaml: what is written arrives as meant, and every mistake is told with its place and its cure."""

from __future__ import annotations

from decimal import Decimal
from pathlib import PurePath

import pytest

from extproc.config import Config, ConfigErrors, Problem, load
from extproc.config.document import read_document
from extproc.config.load import known_keys
from extproc.config.versions import CURRENT, VERSIONS, check_version

MINIMAL = "version: 1\nproviders:\n  openai: {api: openai, hosts: [api.openai.com]}\n  claude: {api: anthropic}\n"

FULL = """\
version: 1
providers:
  openai:
    api: openai
    hosts: [api.openai.com]
    cluster: openai_main
    credential: {env: OPENAI_API_KEY}
    upstream: {address: "127.0.0.1:9443", ca: ca.pem, server_name: api.openai.com}
    models: [gpt-4o]
    unknown_paths: passthrough
  openai_b: {api: openai, credential: {file: secrets/b}}
  anthropic: {api: anthropic, hosts: [api.anthropic.com], credential: {env: ANTHROPIC_API_KEY}}
keys: {file: k/keys.json, pepper: {env: PEPPER}}
access:
  - {team: demo, app: "*", tenant: "*", models: ["gpt-*"], providers: ["*"], endpoints: ["openai_*"]}
aliases:
  fast: {provider: openai, model: gpt-4o-mini}
  gpt-4: {provider: openai, model: gpt-4o, fallback: [openai_b]}
limits: {request_body: 16MiB, response_body: 100000000, stream_event: 512KiB}
timeouts:
  default: quick
  classes: {quick: {first_byte: 250ms, idle: 10m, total: 1h}, slow: {first_byte: 600s, idle: 900s, total: 3600s}}
  models: {"o1*": slow}
labels: {max_length: 32, metric_values: 50}
pricing:
  overrides: [{provider: openai, model: "my-*", input: 3, output: 15, cached_input: 0.3, cache_write: 3.75}]
workers: {count: 4, drain: 90s}
metrics: {address: "0.0.0.0:9000"}
log: {format: console, level: debug}
"""


def read(text: str) -> Config:
    return load(text.encode(), "gateway.yaml", base=PurePath("/etc/gateway"))


def mistakes(text: str | bytes) -> tuple[Problem, ...]:
    data = text if isinstance(text, bytes) else text.encode()
    with pytest.raises(ConfigErrors) as caught:
        load(data, "gateway.yaml", base=PurePath("/etc/gateway"))
    return caught.value.errors


def test_everything_written_arrives_as_meant() -> None:
    """Units become bytes and seconds, prices exact decimals, paths join the folder of the file."""
    config = read(FULL)
    assert config.cluster("openai") == "openai_main"
    assert config.cluster("openai_b") == "openai_b"
    openai = config.providers["openai"]
    assert openai.upstream is not None
    assert openai.upstream.ca == PurePath("/etc/gateway/ca.pem")
    assert openai.unknown_paths == "passthrough"
    assert config.providers["openai_b"].credential is not None
    assert config.providers["openai_b"].credential.file == PurePath("/etc/gateway/secrets/b")
    assert config.keys.file == PurePath("/etc/gateway/k/keys.json")
    assert config.keys.pepper.env == "PEPPER"
    assert config.access[0].models == ("gpt-*",)
    assert config.aliases["gpt-4"].fallback == ("openai_b",)
    assert (config.limits.request_body, config.limits.response_body, config.limits.stream_event) == (
        16 << 20,
        100_000_000,
        512 << 10,
    )
    quick = config.timeouts.classes["quick"]
    assert (quick.first_byte, quick.idle, quick.total) == (0.25, 600.0, 3600.0)
    assert config.pricing.overrides[0].cached_input == Decimal("0.3")
    assert config.pricing.overrides[0].reasoning is None
    assert config.workers.drain == 90.0


def test_defaults_are_complete_and_closed() -> None:
    """The least file has every section, its paths joined to the folder, and lets nobody in."""
    config = read(MINIMAL)
    assert config.access == ()
    assert config.keys.file == PurePath("/etc/gateway/keys.json")
    assert config.keys.pepper.file == PurePath("/etc/gateway/pepper")
    assert config.limits.request_body == 32 << 20
    assert set(config.timeouts.classes) == {"standard", "long"}
    assert config.workers.count == 2
    assert config.providers["openai"].unknown_paths == "refuse"


def test_written_defaults_equal_left_out_ones() -> None:
    """A file that spells all defaults out means the same as one that does not."""
    classes = (
        "{standard: {first_byte: 120s, idle: 300s, total: 600s}, long: {first_byte: 600s, idle: 900s, total: 3600s}}"
    )
    spelled = MINIMAL + (
        "keys: {file: keys.json, pepper: {file: pepper}}\n"
        "limits: {request_body: 32MiB, response_body: 64MiB, stream_event: 1MiB}\n"
        f"timeouts: {{default: standard, classes: {classes}}}\n"
        "labels: {max_length: 64, metric_values: 200}\nworkers: {count: 2, drain: 600s}\n"
        'metrics: {address: "127.0.0.1:9464"}\nlog: {format: json, level: info}\n'
    )
    assert read(spelled) == read(MINIMAL)


def test_a_config_cannot_be_changed() -> None:
    """What exchanges share is frozen."""
    config = read(MINIMAL)
    with pytest.raises(ValueError, match="frozen"):
        config.workers.count = 3  # type: ignore[misc]


MISTAKES = [
    # what is added to or put in the place of the minimal file, path, part of the reason, part of the cure
    ("limts: {request_body: 1MiB}", "limts", "not a known key", "did you mean `limits`?"),
    ("limits: {request_bdy: 1MiB}", "limits.request_bdy", "not a known key", "`request_body`"),
    ("workers: {zzz: 1}", "workers.zzz", "not a known key", "known: count, drain"),
    ("limits: {request_body: lots}", "limits.request_body", "not a size", "32MiB"),
    ("limits: {request_body: 1.5MiB}", "limits.request_body", "not a size", "whole number"),
    ("limits: {request_body: 10}", "limits.request_body", "too small", "at least 1024"),
    ("limits: {request_body: 9GiB}", "limits.request_body", "too large", "at most"),
    ("limits: {response_body: 1MiB, stream_event: 2MiB}", "limits", "stream_event is larger", "lower `stream_event`"),
    ("workers: {drain: 600}", "workers.drain", "not a duration", "120s"),
    ("workers: {drain: 0s}", "workers.drain", "too small", "more than 0"),
    ('workers: {count: "2"}', "workers.count", "not a whole number", "without quotes"),
    ("workers: {count: 2.0}", "workers.count", "not a whole number", "whole number"),
    ("workers: {count: true}", "workers.count", "not a whole number", "whole number"),
    ("workers: {count: 0}", "workers.count", "too small", "at least 1"),
    ("workers: 2", "workers", "not a section", "keys and values"),
    ("workers:", "workers", "not a section", "keys and values"),
    ("metrics: {address: 9464}", "metrics.address", "not text", "quotes"),
    ('metrics: {address: ":9464"}', "metrics.address", "not an address", "127.0.0.1:9464"),
    ('metrics: {address: "127.0.0.1:99999"}', "metrics.address", "not an address", "host and port"),
    ("log: {level: verbose}", "log.level", "not one of the choices", "debug, info, warning or error"),
    ("log: {format: yes}", "log.format", "not one of the choices", "json or console"),
    ("access: {team: demo}", "access", "not a list", "write a list"),
    ("access: [{}]", "access[0]", "empty", "allow everybody"),
    ("access: [{team: demo, models: []}]", "access[0].models", "too few", "at least 1"),
    ("access: [{team: demo, models: gpt-4o}]", "access[0].models", "not a list", "[a, b]"),
    ('access: [{team: "a b"}]', "access[0].team", "not a pattern", "any run of characters"),
    ('access: [{team: "demo[1]"}]', "access[0].team", "not a pattern", "* (any run"),
    ("aliases: {fast: {provider: opena, model: m}}", "aliases.fast.provider", "no provider `opena`", "`openai`"),
    ("aliases: {fast: {provider: openai}}", "aliases.fast.model", "missing", "add it"),
    ("aliases: {'a b': {provider: openai, model: m}}", 'aliases["a b"]', "not a model name", "letters, digits"),
    (
        "aliases: {f: {provider: openai, model: m, fallback: [claud]}}",
        "aliases.f.fallback[0]",
        "no provider",
        "`claude`",
    ),
    (
        "aliases: {f: {provider: openai, model: m, fallback: [claude]}}",
        "aliases.f.fallback[0]",
        "speaks anthropic",
        "translation stage",
    ),
    ("aliases: {f: {provider: openai, model: m, fallback: [openai]}}", "aliases.f", "own provider", "remove it"),
    ("timeouts: {default: slow}", "timeouts.default", "no class `slow`", "known: long, standard"),
    ("timeouts: {models: {'o1*': lang}}", 'timeouts.models["o1*"]', "no class `lang`", "`long`"),
    (
        "timeouts: {classes: {standard: {first_byte: 60s, idle: 30s, total: 90s}}}",
        "timeouts.classes.standard",
        "idle is shorter",
        "Envoy's idle timer",
    ),
    (
        "timeouts: {classes: {standard: {first_byte: 60s, idle: 60s, total: 30s}}}",
        "timeouts.classes.standard",
        "total is shorter",
        "raise `total`",
    ),
    ("timeouts: {classes: {}}", "timeouts.classes", "too few", "at least 1"),
    ("keys: {pepper: hunter2}", "keys.pepper", "only by reference", "{env: NAME}"),
    ("keys: {pepper: {}}", "keys.pepper", "exactly one", "{file: path}"),
    ("keys: {pepper: {env: A, file: b}}", "keys.pepper", "exactly one", "{file: path}"),
    ("keys: {pepper: {env: $PEPPER}}", "keys.pepper.env", "name of an environment variable", "without $"),
    ("keys: {file: ''}", "keys.file", "not a file path", "name the file"),
    (
        "pricing: {overrides: [{provider: opnai, model: m, input: 1, output: 1}]}",
        "pricing.overrides[0].provider",
        "no provider",
        "`openai`",
    ),
    (
        "pricing: {overrides: [{provider: openai, model: m, input: -1, output: 1}]}",
        "pricing.overrides[0].input",
        "not a price",
        "0 or more",
    ),
    (
        "pricing: {overrides: [{provider: openai, model: m, input: 3 USD, output: 1}]}",
        "pricing.overrides[0].input",
        "not a number",
        "without a unit",
    ),
    ("labels: &a {max_length: 3}", "labels", "anchor", "write the value out"),
    ("labels: !!map {max_length: 3}", "labels", "tag", "remove the tag"),
    ("labels: {max_length: 3, max_length: 4}", "labels.max_length", "written twice", "keep one"),
    ("labels: {1: 3}", "labels", "key that is not text", "quotes"),
    ("<<: {a: 1}", "gateway.yaml", "merge key", "write the keys out"),
    ("---\nversion: 1", "gateway.yaml", "more than one document", "---"),
]


@pytest.mark.parametrize(("addition", "path", "reason", "hint"), MISTAKES, ids=[row[0][:50] for row in MISTAKES])
def test_a_mistake_is_told_with_place_reason_and_cure(addition: str, path: str, reason: str, hint: str) -> None:
    """One mistake gives one message, at its path and line, with what to do."""
    (problem,) = mistakes(MINIMAL + addition + "\n")
    assert problem.path == path
    assert reason in problem.reason
    assert hint in problem.hint
    assert problem.line is not None
    assert problem.line >= 5


PROVIDERS = [
    ("{api: opnai}", "providers.p.api", "choices", "openai or anthropic"),
    ("{}", "providers.p.api", "missing", "add it"),
    ("{api: openai, hosts: [https://api.openai.com]}", "providers.p.hosts[0]", "URL", "host only"),
    ("{api: openai, hosts: ['api.openai.com:443']}", "providers.p.hosts[0]", "port", "host only"),
    ("{api: openai, hosts: [API.openai.com]}", "providers.p.hosts[0]", "lower-case", "lower case"),
    ("{api: openai, hosts: ['*.openai.com']}", "providers.p.hosts[0]", "wildcard", "each host"),
    ("{api: openai, hosts: [api.openai.com.]}", "providers.p.hosts[0]", "not a host", "trailing dot"),
    ("{api: openai, hosts: [a.example, a.example]}", "providers.p.hosts", "twice", "once"),
    ("{api: openai, hosts: [api.example]}", "providers.p.hosts[0]", "belongs to provider `first`", "alias or fallback"),
    ("{api: openai, cluster: first}", "providers.p.cluster", "belongs to provider `first`", "of its own"),
    ("{api: openai, credential: plain}", "providers.p.credential", "only by reference", "{env: NAME}"),
    (
        "{api: openai, upstream: {address: localhost}}",
        "providers.p.upstream.address",
        "not an address",
        "host and port",
    ),
    ("{api: openai, upstream: {ca: ca.pem}}", "providers.p.upstream", "neither `address` nor `proxy`", "one of them"),
    ("{api: openai, upstream: {proxy: 'proxy:3128'}}", "providers.p.upstream.proxy", "not an HTTP proxy", "http://"),
    ("{api: openai, upstream: {proxy: 'http://u:p@a:1'}}", "providers.p.upstream.proxy", "not an HTTP", "credentials"),
    ("{api: openai, unknown_paths: allow}", "providers.p.unknown_paths", "choices", "refuse or passthrough"),
    ("{api: openai, credental: {env: A}}", "providers.p.credental", "known key", "`credential`"),
    ("[]", "providers.p", "not a section", "keys and values"),
]


@pytest.mark.parametrize(("entry", "path", "reason", "hint"), PROVIDERS, ids=[row[0][:50] for row in PROVIDERS])
def test_a_mistake_in_a_provider(entry: str, path: str, reason: str, hint: str) -> None:
    """The same for what stands in a provider."""
    first = "  first: {api: openai, hosts: [api.example]}"
    (problem,) = mistakes(f"version: 1\nproviders:\n{first}\n  p: {entry}\n")
    assert (problem.path, problem.line) == (path, 4)
    assert reason in problem.reason
    assert hint in problem.hint


@pytest.mark.parametrize("name", ["OpenAI", "open-ai", "1openai", "öpenai", "a" * 64])
def test_a_provider_name_fits_envoy(name: str) -> None:
    """The name becomes part of cluster and listener names."""
    (problem,) = mistakes(f"version: 1\nproviders: {{{name}: {{api: openai}}}}\n")
    assert problem.path in {f"providers.{name}", f'providers["{name}"]'}
    assert "lower-case letters" in problem.hint


@pytest.mark.parametrize(
    ("text", "path", "reason", "hint"),
    [
        ("", "gateway.yaml", "empty", "version: 1"),
        ("# nothing\n", "gateway.yaml", "empty", "version: 1"),
        ("- a\n", "gateway.yaml", "not a mapping", "version: 1"),
        ("providers: {}\n", "version", "missing", "first line"),
        ("version: 2\n", "version", "newer", "install the release"),
        ("version: 0\n", "version", "older", "to 1:"),
        ('version: "1"\n', "version", "not a whole number", "version: 1"),
        ("version: true\n", "version", "not a whole number", "version: 1"),
        ("version: 1\n", "providers", "missing", "add it"),
        ("version: 1\nproviders: {}\n", "providers", "too few", "at least 1"),
        ("version: 1\n\tproviders: {}\n", "gateway.yaml", "not valid YAML", "tabs"),
        ("version: 1\na: [1, 2\nb: 3\n", "gateway.yaml", "at column", "brackets"),
        ("version: 1\na: *x\n", "a", "alias", "write the value out"),
        (b"version: 1\n# \xff\n", "gateway.yaml", "not UTF-8", "UTF-8"),
        (b"version: 1\na: \x00\n", "gateway.yaml", "not valid YAML", "control"),
        ("a: " * 40, "gateway.yaml", "not valid YAML", "indentation"),
        ("[" * 100_000, "[0]" * 32, "deeper than 32", "flatten"),
        ("- " * 100_000, "[0]" * 32, "deeper than 32", "flatten"),
        (b" " * (4 * 1024 * 1024 + 1), "gateway.yaml", "larger than", "KiB"),
    ],
)
def test_a_file_that_cannot_be_read(text: str | bytes, path: str, reason: str, hint: str) -> None:
    """Syntax, encoding, size and version are judged first, and alone."""
    (problem,) = mistakes(text)
    assert problem.path == path
    assert reason in problem.reason
    assert hint in problem.hint


def test_a_syntax_error_has_line_and_column() -> None:
    """An operator finds the place."""
    (problem,) = mistakes("version: 1\nproviders:\n  a: {api: openai\nlog: {}\n")
    assert problem.line in {3, 4}
    assert "column" in problem.reason


def test_all_mistakes_are_told_at_once() -> None:
    """Mistakes within sections do not hide those between sections, and come in the order of the file."""
    text = (
        "version: 1\nproviders:\n  a: {api: openai, hosts: [x.example]}\n  b: {api: openai, hosts: [x.example]}\n"
        "  c: {api: nothing}\naliases: {f: {provider: d, model: m}, g: {provider: c, model: m}}\n"
        "timeouts: {default: none}\nworkers: {count: 0}\nlimts: {}\n"
    )
    found = mistakes(text)
    assert [problem.path for problem in found] == [
        "providers.b.hosts[0]",
        "providers.c.api",
        "aliases.f.provider",
        "timeouts.default",
        "workers.count",
        "limts",
    ]
    assert [problem.line for problem in found] == [4, 5, 6, 7, 8, 9]


def test_yaml_words_are_not_bent() -> None:
    """`no`, `on` and `1:30` are text, as YAML 1.2 has it; numbers are numbers."""
    document = read_document(b"a: no\nb: on\nc: 1:30\nd: 0x1F\ne: 1e3\nf: ~\ng: '5'\nh: 007\n", "x")
    assert document.tree == {"a": "no", "b": "on", "c": "1:30", "d": 31, "e": 1000.0, "f": None, "g": "5", "h": 7}


def test_errors_are_one_error_too() -> None:
    """`ConfigErrors` can be caught as `ConfigError` and prints every line."""
    with pytest.raises(ConfigErrors, match="2 errors") as caught:
        read(MINIMAL + "limts: 1\nlgo: 2\n")
    text = str(caught.value)
    assert "limts (line 5)" in text
    assert "lgo (line 6)" in text


def test_the_keys_of_every_section_are_known() -> None:
    """Hints find the section behind mappings and lists."""
    assert "address" in known_keys(("providers", "x", "upstream"))
    assert "cached_input" in known_keys(("pricing", "overrides", 3))
    assert known_keys(("timeouts", "classes", "x")) == ("first_byte", "idle", "total")
    assert known_keys(("version", "x")) == ()


def test_versions_are_numbered_without_gaps() -> None:
    """Each version says how to come to it, and the model reads the last."""
    assert [version.number for version in VERSIONS] == list(range(1, CURRENT + 1))
    assert all(version.migrate and version.changes for version in VERSIONS)
    assert check_version(read_document(f"version: {CURRENT}".encode(), "x")) is None


def test_a_flood_of_errors_is_told_in_part() -> None:
    """The message stays readable; the holder has them all."""
    with pytest.raises(ConfigErrors, match="… and 50 more") as caught:
        read(MINIMAL + "".join(f"key_{number}: 1\n" for number in range(100)))
    assert len(caught.value.errors) == 100
    assert str(caught.value).count("is not a known key") == 50
