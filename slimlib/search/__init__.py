"""Which channels matter, and how many each layer should have within a budget (AutoSlim, LeGR)."""
