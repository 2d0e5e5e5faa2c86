"""Settings of the runner, composed by hydra: one choice of each group."""
