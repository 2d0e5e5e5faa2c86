"""What the channels of trained networks learn: which patterns, how alike at each width, and which matter."""
