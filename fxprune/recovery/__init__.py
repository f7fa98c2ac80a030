"""A pruned model that works: repair without labels, and what else brings accuracy back."""
