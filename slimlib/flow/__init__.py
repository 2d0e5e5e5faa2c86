"""Channel flow: which layers of a network may slim, and how their channels run on.

`follow` runs the network with integer channel ids beside every tensor (`trace`, `ids`). Every operation has a rule
(`operations`) that moves the ids or ties them (`ties`); `solve` reads units, groups and segments off the ties.
"""

from slimlib.flow.follow import follow
from slimlib.flow.steps import FlowError

__all__ = ["FlowError", "follow"]
