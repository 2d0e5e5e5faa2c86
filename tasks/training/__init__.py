"""What all tasks share: recipes, the training loop, checkpoints, scoring."""
