"""What an operator may write: `gateway.yaml` as a strict, frozen model, and the one way from bytes to it."""

from __future__ import annotations

from extproc.config.load import load
from extproc.config.model import Config
from extproc.config.problems import ConfigErrors, Problem

__all__ = ["Config", "ConfigErrors", "Problem", "load"]
