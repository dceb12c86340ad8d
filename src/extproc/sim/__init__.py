"""Vendors on loopback for tests and demonstrations: they speak OpenAI's and Anthropic's wire and call no model.

answer    what the simulator will send: status, header fields, the pieces of the body, timing and faults
case      an answer registered under a name (recorded bodies, mostly)
script    answers that the next requests get, first come first served, whatever they ask
seen      one request as it arrived: raw header fields in order, body, protocol, SNI

`synthetic` makes answers without a network; `Simulator` serves them; `python -m extproc.sim` runs one on its own.
"""

from extproc.sim.answer import SimAnswer
from extproc.sim.server import Settings, Simulator, run
from extproc.sim.vendors import Vendors, answer_request, synthetic

__all__ = ["Settings", "SimAnswer", "Simulator", "Vendors", "answer_request", "run", "synthetic"]
