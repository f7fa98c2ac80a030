"""From operators to coupled channels: a label for every index of every axis, and what the labels say together."""
