"""From a trained network to a device: plain networks of one width, their cost, and which width fits a budget."""
