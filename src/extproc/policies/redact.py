"""What is sensitive does not go out, and comes back in the answer: finds it, puts something else in its place, restores.

Detection is an effect: the host knows what was scanned before and what takes so long that it belongs in a thread. No map
is kept: what a placeholder stands for is known from the request in which it was put, for as long as its exchange lasts.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from functools import partial
from typing import ClassVar, Final, cast

from extproc.dialects.dialect import ReadLimits, RequestView, ResponseEditor
from extproc.errors import BudgetExceededError, EffectError, ErrorCode, Rejection
from extproc.exchange.actions import BodyMode
from extproc.exchange.draft import Draft
from extproc.exchange.effects import Effect, FindEntities, FoundEntities, Steps
from extproc.exchange.events import RequestBody, RequestHeaders, ResponseBody, ResponseHeaders
from extproc.exchange.facts import Facts, Redaction
from extproc.exchange.policy import Policy
from extproc.policies.inspection import Inspection
from extproc.policies.profiles import Profile, Profiles
from extproc.redaction.json_answers import JsonAnswers
from extproc.redaction.operators import Allow, Operators
from extproc.redaction.output_scan import OutputScan
from extproc.redaction.pseudonyms import Pseudonyms
from extproc.redaction.restore import Restorer
from extproc.text import Findings

SKIPPED_HEADER: Final = "x-llm-redaction"
"""On answers to calls that went out uninspected because the profile says so: `skipped`."""


_TALKS: Final = frozenset({"stop", "end_turn", "completed"})  # finish reasons of answers that are a text
_LONGEST_AHEAD: Final = 32_000  # characters
_BUDGET_AHEAD: Final = 1.0  # seconds


class RedactPolicy(Policy):
    """Writes `facts.redaction`. Needs `facts.target`, `request` and, on the way back, `response.reader`."""

    name: ClassVar[str] = "redact"

    def __init__(self, profiles: Profiles, limits: ReadLimits, key: bytes | None) -> None:
        """Built per exchange. `key`: for keyed pseudonyms and hashes; None where the configuration has none."""
        self._profiles = profiles
        self._limits = limits
        self._key = key
        self._bodyless = False
        self._profile: Profile | None = None
        self._pseudonyms: Pseudonyms | None = None
        self._editor: ResponseEditor | None = None
        self._restorer: Restorer | None = None

    def request_headers(self, facts: Facts, event: RequestHeaders, draft: Draft) -> None:
        """Note whether a body follows."""
        self._bodyless = event.end

    def request_body(self, facts: Facts, event: RequestBody, draft: Draft) -> Steps | None:
        """Inspect and edit. Raises 400 for content that is blocked, 403 for what cannot be read, 503 where it failed."""
        profile = self._profile = self._profiles.of(facts)
        if profile is None:
            return None
        noted = facts.redaction = Redaction(profile.name, shadow=profile.shadow)
        dialect = facts.endpoint.dialect if facts.endpoint is not None else None
        if facts.request is not None:
            return self._inspect(facts, facts.request, profile, draft)
        if dialect is None and not self._bodyless and not noted.shadow:
            message = "This gateway cannot inspect calls to this path, and what it cannot inspect does not go out."
            raise Rejection(403, ErrorCode.POLICY_ENDPOINT_NOT_ALLOWED, message)
        return None

    def _inspect(self, facts: Facts, request: RequestView, profile: Profile, draft: Draft) -> Steps:
        noted = cast("Redaction", facts.redaction)
        keyed = profile.keyed
        if not profile.shadow:
            keyed = self._keyed(request, profile)
            _refuse_unreadable(request, answers=profile.output is not None)
        try:
            inspection = Inspection(request, profile)
            found = yield from self._find(inspection, profile, noted)
        except EffectError as error:
            self._failed(error, profile, noted)
            return
        except Rejection:  # nested too deep to be walked
            if not profile.shadow:
                raise
            noted.failed = "error"
            return
        tenant = self._profiles.tenant(facts)
        pseudonyms = Pseudonyms(self._key if keyed else None, tenant)
        draft.edits += inspection.edits(found, pseudonyms, noted)
        if noted.entities:
            draft.note("llm", redacted=sum(noted.entities.values()))
        if not noted.shadow and pseudonyms.table():
            self._pseudonyms = pseudonyms

    def _keyed(self, request: RequestView, profile: Profile) -> bool:
        """Whether placeholders are keyed. Raises 400 where the request leans on what no one here has seen."""
        history = request.stored_history
        if history is None:
            return profile.keyed
        if not profile.keyed_history:
            message = f"{history}: this gateway must see what a model is given. Send it in the request itself."
            raise Rejection(400, ErrorCode.POLICY_STORED_HISTORY, message, param=history, detail="stored history")
        return True

    @staticmethod
    def _find(
        inspection: Inspection, profile: Profile, noted: Redaction
    ) -> Generator[Effect, object, tuple[Findings, Findings]]:
        found: list[Findings] = []
        budget, scanners = profile.on_trouble.budget, profile.scanners
        for scanner, texts in ((scanners.texts, inspection.prose), (scanners.identifiers, inspection.formed)):
            if not texts:
                found.append(())
                continue
            answer = cast("FoundEntities", (yield FindEntities(scanner, texts, budget)))
            noted.seconds += answer.seconds
            noted.cached += answer.cached
            noted.scanned += answer.scanned
            budget = max(0.0, budget - answer.seconds)
            found.append(answer.findings)
        return found[0], found[1]

    @staticmethod
    def _failed(error: EffectError, profile: Profile, noted: Redaction) -> None:
        """The request could not be inspected. Raises 503 unless the profile lets it pass."""
        over = isinstance(error, BudgetExceededError)
        noted.failed = "budget" if over else "error"
        trouble = profile.on_trouble
        if profile.shadow or (trouble.forward_on_budget if over else trouble.forward_on_error):
            return
        reason = "took too long" if over else "failed"
        message = f"Inspecting this request {reason}, so it was not sent on."
        raise Rejection(503, ErrorCode.GATEWAY_INSPECTION_FAILED, message, retry_after=1, detail=noted.failed)

    def response_headers(self, facts: Facts, event: ResponseHeaders, draft: Draft) -> None:
        """Make ready to edit the answer, where there is anything to restore or to look for."""
        profile, noted, response = self._profile, facts.redaction, facts.response
        if profile is None or noted is None:
            return
        if noted.failed and not noted.shadow:
            draft.set[SKIPPED_HEADER] = "skipped"
        dialect = facts.endpoint.dialect if facts.endpoint is not None else None
        texts: Restorer | OutputScan | JsonAnswers | None = self._filter(profile, noted)
        if texts is not None and facts.request is not None and facts.request.wants_json:
            texts = JsonAnswers(texts)
        if dialect is None or response.reader is None or texts is None:
            return
        if draft.body_mode is BodyMode.STREAMED:
            draft.remove.append("content-length")  # what goes on is longer or shorter than announced
        self._editor = dialect.editor(stream=response.stream, texts=texts, limits=self._limits)

    def _filter(self, profile: Profile, noted: Redaction) -> Restorer | OutputScan | None:
        texts: Restorer | None = None
        if self._pseudonyms is not None and profile.restore:
            texts = self._restorer = Restorer(self._pseudonyms.table())
        if profile.output is not None:
            output = profile.output
            ours = self._pseudonyms.table().__contains__ if self._pseudonyms is not None else None
            if noted.shadow:
                would = output.operators
                counted = partial(_count_would, noted, would)
                operators = Operators(dict.fromkeys(would.kinds, Allow()))
                return OutputScan(output.scanner.scan, operators, texts, counted, ours)
            return OutputScan(output.scanner.scan, output.operators, texts, noted.count, ours)
        return texts

    def response_body(self, facts: Facts, event: ResponseBody, draft: Draft) -> bytes | None:
        """Restore, scan. Raises `Rejection` where the model wrote what must not pass: the stream ends politely."""
        if self._editor is None:
            return None
        try:
            return self._editor.feed(event.data, end=event.end)
        except Rejection:
            facts.response.unsent = self._editor.unsent
            raise

    def finish(self, facts: Facts) -> Steps | None:
        """Note how many placeholders came back. In a chat, have the answer searched: the next turn brings it along."""
        noted, profile, reader = facts.redaction, self._profile, facts.response.reader
        if noted is None or profile is None:
            return None
        if self._restorer is not None:
            noted.restored = self._restorer.restored
        grows = noted.cached > 0 and not noted.failed  # some of the request was sent before: so will the answer be
        if not grows or reader is None or not reader.finished or not _TALKS.issuperset(reader.finish_reasons):
            return None
        return self._search_ahead(reader.output_texts(), profile, streamed=facts.response.stream)

    def _search_ahead(self, texts: Sequence[str], profile: Profile, *, streamed: bool) -> Steps:
        wholes = ("".join(texts),) if streamed else tuple(texts)
        table = Restorer(self._pseudonyms.table()) if self._pseudonyms is not None else None
        given = [text if table is None else table.whole("text", text) for text in wholes if text]
        if given and sum(map(len, given)) <= _LONGEST_AHEAD:
            yield FindEntities(profile.scanners.texts, given, _BUDGET_AHEAD, ahead=True)


def _refuse_unreadable(request: RequestView, *, answers: bool) -> None:
    """Raises 400 for what cannot be inspected: token ids, and log-probabilities where `answers` are searched.

    The latter would spell out, token by token, what was masked.
    """
    field = request.unreadable
    if field is not None:
        message = f"{field}: this gateway must read what goes out. Send text in place of token ids."
        raise Rejection(400, ErrorCode.CALLER_INVALID_FIELD, message, param=field)
    for field in ("logprobs", "top_logprobs", "include") if answers else ():
        given = request.value((field,))
        if given and (field != "include" or "logprobs" in str(given)):
            message = f"{field}: log-probabilities cannot be had here, because answers are inspected."
            raise Rejection(400, ErrorCode.CALLER_INVALID_FIELD, message, param=field)


def _count_would(noted: Redaction, would: Operators, kind: str, _operator: str) -> None:
    """In shadow mode: count what would have become of it."""
    noted.count(kind, would.name(kind))
