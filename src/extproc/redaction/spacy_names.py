"""Names by a spaCy pipeline: for languages that the built-in models were not made for.

The labels of spaCy's models are given Presidio's names by Presidio's own table, with Presidio's score, so that a
finding is what Presidio's spaCy recognizer would report. Only what recognises entities is loaded and run. spaCy holds
Python's global lock while it works, a few milliseconds a piece.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from importlib import import_module
from typing import Any, Final

from extproc.errors import ConfigError, EffectError
from extproc.redaction.transformer import ModelMissingError
from extproc.redaction.transformer_windows import unite, windows
from extproc.text import Check, Finding, never

RULE: Final = "spacy"
KINDS: Final = frozenset({"PERSON", "LOCATION", "ORGANIZATION", "NRP", "DATE_TIME"})
"""What can be asked for; which of them a model knows is its own matter."""

_WINDOW: Final = 600  # 10 to 20 ms of work between two checks
_OVERLAP: Final = 80
_WHERE: Final = "names: spacy"


class SpacyDetector:
    """Finds what a spaCy model's entity recognizer finds. One thread at a time."""

    def __init__(self, language: str, model: str, kinds: Collection[str] = frozenset({"PERSON"})) -> None:
        """`language`: its ISO 639-1 code (`de`); `model`: the name of an installed package (`de_core_news_sm`).

        Nothing is ever downloaded. Raises `ModelMissingError` where the package is not installed or cannot be loaded,
        `ConfigError` where it is for another language, has no entity recognizer, or finds none of `kinds`.
        """
        try:
            spacy = import_module("spacy")
            presidio = import_module("presidio_analyzer.nlp_engine")
        except ImportError as error:
            raise ModelMissingError(_WHERE, f"{error.name} is not installed", "pip install spacy") from error
        self._pipeline: Final[Any] = _load(spacy, model)
        if self._pipeline.lang != language:
            raise ConfigError(_WHERE, f"{model} is a model for {self._pipeline.lang!r}, not for {language!r}")
        names = presidio.NerModelConfiguration()
        labels = {str(label) for label in self._pipeline.get_pipe("ner").labels}
        known: dict[str, str] = names.model_to_presidio_entity_mapping
        self._kinds: Final = {label: known[label] for label in labels if known.get(label) in KINDS & set(kinds)}
        if not self._kinds:
            raise ConfigError(_WHERE, f"{model} finds none of {', '.join(sorted(kinds))}: it has {sorted(labels)}")
        self._score: Final = float(names.default_score)

    def scan(self, text: str, check: Check = never) -> list[Finding]:
        """All findings. Calls `check` before every piece of the text; raises `EffectError` where the model fails."""
        return unite(self._found(text, check))

    def _found(self, text: str, check: Check) -> Iterator[Finding]:
        for window in windows(text, (0, len(text)), _WINDOW, _OVERLAP):
            check()
            part = text[window.start : window.end].encode(errors="replace").decode()  # lone surrogates only
            try:
                entities = self._pipeline(part).ents
            except (ValueError, RuntimeError) as error:
                raise EffectError("spaCy could not read a text") from error
            for entity in entities:
                kind = self._kinds.get(entity.label_)
                start, end = window.start + entity.start_char, window.start + entity.end_char
                if kind is not None and window.owns(start, end):
                    yield Finding(kind, start, end, self._score, RULE)


def _load(spacy: Any, model: str) -> Any:
    """The installed package's pipeline, without what the entity recognizer does not need."""
    if not spacy.util.is_package(model):
        raise ModelMissingError(_WHERE, f"the spaCy model {model!r} is not installed as a package", _cure(model))
    try:
        pipeline = spacy.load(model)
    except (OSError, ImportError, ValueError) as error:
        raise ModelMissingError(_WHERE, f"the spaCy model {model!r} cannot be loaded", _cure(model)) from error
    if not pipeline.has_pipe("ner"):
        raise ConfigError(_WHERE, f"the spaCy model {model!r} has no entity recognizer")
    needed = {"ner", *_listened_to(pipeline)}
    for name in pipeline.component_names:
        if name not in needed:
            pipeline.remove_pipe(name)
    return pipeline


def _listened_to(pipeline: Any) -> Iterator[str]:
    """The components whose vectors the entity recognizer takes in: some models share them, some have their own."""
    for name, component in pipeline.pipeline:
        if "ner" in getattr(component, "listening_components", ()):
            yield name


def _cure(model: str) -> str:
    return f"install the package {model}; models are never downloaded by the gateway"
