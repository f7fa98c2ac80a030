"""Contexts that model code enters while it is recorded, and what they do to nodes."""
