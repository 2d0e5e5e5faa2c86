"""Rules that train several widths in one step, and what each width learns from."""
