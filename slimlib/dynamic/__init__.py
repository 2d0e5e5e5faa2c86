"""A width for each input: routing by groups, cascades, gates."""
