"""What slimmable networks are trained for: each task says what a batch, a loss and a metric is."""
