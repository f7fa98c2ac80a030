"""Calls of modules while they are recorded: hooks, norms, modes of their own, code that is replaced."""
