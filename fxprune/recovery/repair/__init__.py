"""Repair: what is left of a pruned model, fitted to what the whole one does. The verb is in `verb`, the loop in `repairing`."""
