"""Records: what was measured, where, and the folders that hold them."""
