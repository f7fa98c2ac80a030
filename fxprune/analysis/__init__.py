"""Which channels of a model go together, which may go at all, and what they cost."""
