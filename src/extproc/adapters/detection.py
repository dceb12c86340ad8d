"""From a redaction section to detectors that run: the one place that knows where weights and compiled patterns are kept.

Compiling takes seconds the first time on a machine and tenths of a second afterwards, so that it is done in a thread and
a changed configuration goes live only when its detectors are ready.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Final

import msgspec

from extproc.config.model import Config
from extproc.config.redaction import NAME_KINDS, SECRET_KINDS, Profile
from extproc.errors import ConfigError
from extproc.policies.profiles import Scanners
from extproc.text import DatabaseStore, Detector

_FOLDER: Final = "detectors"  # under the state folder
_WEIGHTS: Final = "names.npz"
_FAST_THRESHOLD: Final = 0.3
