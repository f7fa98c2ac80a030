"""What runs a model and says how long that takes: one engine, one file. A new one is a line in `registry`."""
