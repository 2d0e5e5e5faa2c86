"""Timings of slimlib against individually built dense networks of the same channels."""
