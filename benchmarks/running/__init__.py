"""Jobs: where they run, how they are followed, and how they end."""
