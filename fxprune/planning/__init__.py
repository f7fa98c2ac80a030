"""From scores to a plan: which channels go, as a document that people and machines read."""
