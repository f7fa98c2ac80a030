"""Generated source with the structure of the original: its classes, each with its own forward, stages as loops."""
