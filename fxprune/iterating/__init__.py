"""Pruning in several steps, with training or repair in between: one plan in the end, of the original model's channels.

Each step goes back to the recording of the original: the weights as they are by then are put into its shapes, and what went in
all steps so far, and goes now, is cut from it. So no step depends on how a slim model is recorded, and the plan of any step can
be applied to the original at once.
"""

from __future__ import annotations
