"""What holds for all tests."""

from __future__ import annotations

from hypothesis import settings

# examples differ in speed by what is loaded first and by what else the machine does: time is measured elsewhere
settings.register_profile("extproc", deadline=None)
settings.load_profile("extproc")
