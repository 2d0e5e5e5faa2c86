"""Policies are followed once in a process, as in the tests of `slimlib.rl`."""

from tests.slimlib.rl.conftest import followed_once

__all__ = ["followed_once"]
