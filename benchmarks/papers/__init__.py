"""The papers' printed numbers, ours beside them, and what a published run would cost."""
