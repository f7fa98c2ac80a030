"""Parts that only some modules of a class have."""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx, nn

__all__ = ["complete_parts"]


def complete_parts(found: Sequence[tuple[fx.Graph, nn.Module]]) -> None:
    """Have every graph call what the others call, so that one text serves for all."""
