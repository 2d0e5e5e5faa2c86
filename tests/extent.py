"""How far the tests go: minutes, or with NIGHTLY=1 (`tox -e nightly`) the long forms too, which take hours."""

from __future__ import annotations

import os

NIGHTLY = os.environ.get("NIGHTLY") == "1"
