"""Settings of all tests."""

from __future__ import annotations

import os

from hypothesis import settings

# Laws look at new examples wherever a person runs them; builds are judged by the same ones.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")
