"""What stands in the ``__dict__`` of a module for its forward."""

from __future__ import annotations

import inspect

from torch import nn

__all__ = ["StandIn"]


class StandIn:
    """For those who ask it looks like the forward of the module's class; copied and pickled with the module.

    Attributes:
        part: the module.
    """

    part: nn.Module

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(type(self.part).forward.__get__(self.part))

    @property
    def __name__(self) -> str:
        return "forward"
