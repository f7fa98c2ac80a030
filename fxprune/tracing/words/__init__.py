"""What the code of a model calls its numbers: names for the arguments of generated classes."""
