"""The runner: recipes and tasks in, records out, and from the records tables and figures."""
