"""Parts of models that cannot be recorded whole, each pruned in the place of the original."""
