"""The `fxprune` command."""
