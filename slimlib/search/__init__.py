"""Which channels matter, and how many each layer should have within a budget (AutoSlim, LeGR)."""

from slimlib.search.searching import search

__all__ = ["search"]
