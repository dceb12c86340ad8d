"""One redaction profile for commands that try it out: read from the configuration, compiled, and run on one request.

The real policy judges the request, so what a command shows is what a worker does. Only the budget is left out.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from extproc.adapters.redaction_key import MIN_LENGTH, read_redaction_key
from extproc.bootstrap import Place, prepare_detection
from extproc.cli.output import say
from extproc.cli.place import CONFIG_NAME, config_path, read_config, state_folder
from extproc.cli.starter import STARTER
from extproc.config import Config, load
from extproc.config.redaction import NO_PROFILE, Profile, Redaction
from extproc.dialects.dialect import DEFAULT_LIMITS, Dialect, RequestView
from extproc.dialects.spans import splice
from extproc.errors import ConfigError, Rejection
from extproc.exchange import facts as facts_of
from extproc.exchange.draft import Draft
from extproc.exchange.effects import FindEntities, FoundEntities, Scanner
from extproc.exchange.events import RequestBody
from extproc.policies import profiles as compiled
from extproc.policies.compile_profiles import compile_profiles
from extproc.policies.redact import RedactPolicy
from extproc.runtime import Detection
from extproc.text import Finding

_ANYWHERE: Final = facts_of.Target("any", "any", ("any",))


@dataclass(frozen=True, slots=True)
class Chosen:
    """A profile that a command was asked for, as it is written, and the configuration it is from."""

    name: str
    given: Profile
    config: Config
    place: Place

    def changed(self, given: Profile) -> Chosen:
        """The same with other settings; they are not judged again."""
        return Chosen(self.name, given, self.config, self.place)

    def open(self) -> Opened:
        """Compile it, and it alone, and make it ready to judge requests. Raises `ConfigError`."""
        section = self._section()
        without = section.model_copy(update={"key": None})
        detection = prepare_detection(self.place, self.config.model_copy(update={"redaction": without}))
        key = self._key(section)
        return Opened(self, Detection(detection.scanners, key), compile_profiles(section, detection.scanners, key))

    def _key(self, section: Redaction) -> bytes | None:
        """The key of hashes and keyed pseudonyms. Before the first `up`, or on another machine, one for this run."""
        if section.key is None:
            return None
        try:
            return read_redaction_key(section.key, os.environ)
        except ConfigError as error:
            hashed = any(one.action == "hash" for one in self.given.operators().values())
            if hashed or self.given.placeholders == "keyed":
                say(f"{error.path}: {error.reason}; hashes and codes are made with a key for this run only")
            return os.urandom(MIN_LENGTH)

    def _section(self) -> Redaction:
        section = self.config.redaction or Redaction()
        return section.model_copy(update={"default": self.name, "rules": (), "profiles": {self.name: self.given}})


@dataclass(slots=True)
class Judged:
    """What became of one request. `body`: as it would be sent; None where it would be refused."""

    noted: facts_of.Redaction
    body: bytes | None = None
    refused: Rejection | None = None
    seconds: float = 0.0  # that the search took
    found: dict[tuple[bytes, str], tuple[Finding, ...]] = field(default_factory=dict)  # by scanner and text


@dataclass(frozen=True, slots=True)
class Opened:
    """A compiled profile."""

    chosen: Chosen
    detection: Detection
    profiles: compiled.Profiles

    @property
    def profile(self) -> compiled.Profile:
        """The profile as policies know it."""
        found = self.profiles.of(_facts(None, None))
        if found is None:
            raise ConfigError("redaction.profiles", f"{self.chosen.name} covers nothing", "name another with --profile")
        return found

    @property
    def scanners(self) -> compiled.Scanners:
        """Its scanners."""
        return self.detection.scanners[self.chosen.name]

    def policy(self) -> RedactPolicy:
        """The policy for one request."""
        return RedactPolicy(self.profiles, DEFAULT_LIMITS, self.detection.key)

    def judge(self, dialect: Dialect, request: RequestView, body: bytes) -> Judged:
        """Do with a request what a worker would do, however long it takes."""
        facts = _facts(dialect, request)
        judged = Judged(facts_of.Redaction(self.chosen.name, shadow=self.profile.shadow))
        draft = Draft()
        steps = self.policy().request_body(facts, RequestBody(0.0, body, end=True), draft)
        answer: FoundEntities | None = None
        try:
            while steps is not None:
                effect = next(steps) if answer is None else steps.send(answer)
                if not isinstance(effect, FindEntities):
                    raise TypeError(f"redaction asked for {type(effect).__name__}")
                answer = _find(effect, judged)
        except StopIteration:
            judged.body = splice(body, draft.edits)
        except Rejection as rejection:
            judged.refused = rejection
        judged.noted = facts.redaction or judged.noted
        return judged


def add_profile(parser: argparse.ArgumentParser) -> None:
    """Give a command `--profile`."""
    parser.add_argument("--profile", metavar="NAME", help="profile of the redaction section (default: its `default`)")


def choose(args: argparse.Namespace) -> Chosen:
    """The profile that a command names, or the default one. Raises `ConfigError`.

    Without a configuration, or one without a redaction section, it is `standard` with its defaults.
    """
    path = config_path(args)
    config = load(STARTER.read_bytes(), CONFIG_NAME, base=Path().absolute()) if path is None else read_config(path)
    section = None if path is None else config.redaction
    if section is None:
        told = f"no {CONFIG_NAME} here" if path is None else f"{path} has no redaction section"
        say(f"{told}: this is what the default profile does")
        section = Redaction()
        config = config.model_copy(update={"redaction": section})
    name = args.profile or section.default
    known = ", ".join(section.profiles)
    if name == NO_PROFILE:
        reason = f"is `{NO_PROFILE}`: where no rule matches, nothing is looked at"
        raise ConfigError("redaction.default", reason, f"name a profile with --profile: {known}")
    if name not in section.profiles:
        raise ConfigError("--profile", f"{name!r} is not a profile of this configuration", f"there is: {known}")
    return Chosen(name, section.profiles[name], config, place_of(args, path))


def place_of(args: argparse.Namespace, path: Path | None) -> Place:
    """Where compiled patterns are kept: in the state folder, or, where there is none, in the user's cache folder."""
    state = state_folder(args)
    if args.state is None and not state.is_dir():
        state = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "extproc"
    return Place(path or Path(CONFIG_NAME), state.absolute())


def _facts(dialect: Dialect | None, request: RequestView | None) -> facts_of.Facts:
    facts = facts_of.Facts(facts_of.Origin(0.0, 0.0), target=_ANYWHERE, request=request)
    if dialect is not None:
        facts.endpoint = facts_of.Endpoint(dialect.api, "any", "/", dialect)
    return facts


def _find(effect: FindEntities, judged: Judged) -> FoundEntities:
    began = time.perf_counter()
    findings = [_scan(effect.scanner, text, judged) for text in effect.texts]
    took = time.perf_counter() - began
    judged.seconds += took
    return FoundEntities(findings, took, 0, len(findings))


def _scan(scanner: Scanner, text: str, judged: Judged) -> tuple[Finding, ...]:
    key = (scanner.version, text)
    if key not in judged.found:
        judged.found[key] = scanner.scan(text)
    return judged.found[key]
