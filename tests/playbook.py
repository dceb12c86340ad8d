"""A test of the core is the conversation with Envoy: events go in, actions are compared, effects are answered by hand."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Any

from extproc.exchange.actions import Action
from extproc.exchange.effects import Caller, CountTokens, Effect, FindKey, FoundKey
from extproc.exchange.events import (
    Event,
    RequestBody,
    RequestHeaders,
    ResponseBody,
    ResponseHeaders,
)
from extproc.exchange.facts import Origin
from extproc.exchange.headers import Headers
from extproc.exchange.machine import Exchange
from extproc.exchange.record import Ended, Record
from extproc.exchange.setup import Modes, Setup

Answers = Mapping[type[Effect], Callable[[Any], object]]

DEMO = Caller(key_id="k1", team="demo", app="app")


def headers(**fields: str) -> Headers:
    """Header fields; `_` stands for `-`, a leading `p_` for a pseudo-header's colon."""
    return Headers(
        ((":" + name[2:] if name.startswith("p_") else name).replace("_", "-"), value.encode("latin-1"))
        for name, value in fields.items()
    )


class Playbook:
    """Drives one exchange; every effect must have an answer, every event moves the clock by 10 ms."""

    def __init__(self, setup: Setup, modes: Modes | None = None, *, caller: Caller | None = DEMO) -> None:
        self.now = 100.0
        self.exchange = Exchange(setup, Origin(self.now, 1_790_000_000.0), modes or Modes())
        self.effects: list[Effect] = []
        self.answers: Answers = {
            FindKey: lambda effect: FoundKey(caller if effect.secret.startswith("exk-") else None),
            CountTokens: lambda effect: sum(len(text.split()) for text in effect.texts),
        }

    def drive(self, steps: Generator[Effect, object, Any]) -> Any:
        """Run a generator to its value, answering its effects; an answer that is an exception is thrown in."""
        try:
            effect = next(steps)
            while True:
                self.effects.append(effect)
                answer = self.answers[type(effect)](effect)
                effect = steps.throw(answer) if isinstance(answer, BaseException) else steps.send(answer)
        except StopIteration as stop:
            return stop.value

    def tell(self, event: Event) -> tuple[Action, ...]:
        """One event in, its actions out."""
        return self.drive(self.exchange.receive(event))

    def at(self) -> float:
        """The next moment."""
        self.now += 0.01
        return self.now

    def request(self, path: str = "/v1/chat/completions", *, end: bool = False, **fields: str) -> tuple[Action, ...]:
        """Request headers of an OpenAI call with a key, unless `fields` say otherwise."""
        base = {
            "p_method": "GET" if end else "POST",
            "p_path": path,
            "p_authority": "api.openai.com",
            "content_type": "application/json",
            "authorization": "Bearer exk-test",
        }
        given = {name: value for name, value in (base | fields).items() if value}
        return self.tell(RequestHeaders(self.at(), headers(**given), end))

    def body(self, data: bytes, *, end: bool = True) -> tuple[Action, ...]:
        """(A piece of) the request body."""
        return self.tell(RequestBody(self.at(), data, end))

    def response(self, status: int = 200, *, end: bool = False, **fields: str) -> tuple[Action, ...]:
        """Response headers from the provider."""
        base = {"p_status": str(status), "content_type": "application/json"}
        attributes = {"response.code_details": fields.pop("details", "via_upstream")}
        return self.tell(ResponseHeaders(self.at(), headers(**(base | fields)), end, attributes))

    def answer(self, data: bytes, *, end: bool = True) -> tuple[Action, ...]:
        """(A piece of) the response body."""
        return self.tell(ResponseBody(self.at(), data, end))

    def finish(self) -> Record:
        """The stream is over."""
        return self.drive(self.exchange.finish(Ended("id-1", self.at(), 0.001)))
