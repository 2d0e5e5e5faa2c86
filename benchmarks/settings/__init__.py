"""What a command line may say: one model for each group of settings."""
