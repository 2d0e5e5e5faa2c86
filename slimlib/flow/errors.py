"""What `follow` raises when it cannot follow a network."""


class FlowError(ValueError):
    """A network whose channels cannot be followed; the message names the layer and the operation."""
