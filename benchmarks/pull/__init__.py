"""How hard students pull at the weights that they share with the data."""
