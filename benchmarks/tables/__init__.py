"""Tables: of one ablation, and of the papers beside it."""
