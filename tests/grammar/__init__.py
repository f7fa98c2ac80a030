"""Random networks as small programs: text that prints, shrinks, and builds an `nn.Module`.

A program is a list of steps ``(name, a, b)``; the numbers choose among what is possible where the step
stands, so that every list of steps is a network. To reproduce a failure, paste what it printed::

    Program((("conv", 3, 0), ("shuffle", 1, 0)), head="pool").build()
"""

from __future__ import annotations

from importlib import import_module

from grammar.base import STEPS, Program, programs

__all__ = ["FAMILIES", "STEPS", "Program", "programs"]

FAMILIES = "layers joining moving attention".split()

for _family in FAMILIES:
    import_module(f"grammar.{_family}")
import_module("grammar.usercode")  # what users do around them
