"""A slim model in the user's own classes: a copy of the module tree, its tensors sliced and its numbers set."""
