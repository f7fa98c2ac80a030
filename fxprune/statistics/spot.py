"""One spot at which the channels of a group are observed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from fxprune.analysis.groups import Member

__all__ = ["Hook", "Spot"]

Hook = Literal["activation", "norm", "sum", "consumer"]


@dataclass(frozen=True, eq=False)
class Spot:
    """One spot at which the channels of a group are observed.

    Attributes:
        group: the group's id.
        node: name of the node after whose run the value is taken.
        source: name of the node whose value it is: `node` itself, or its input.
        dim: the axis of the value that the channels are on.
        entries: int64 ``[channels, multiplicity]`` along `dim`.
        copies: other axes that hold channels of some kind (attention heads): not positions.
        reader: of a spot at a consumer, the group's member that is the consumer's weight.
    """

    group: str
    node: str
    source: str
    dim: int
    entries: np.ndarray
    copies: tuple[int, ...] = ()
    reader: Member | None = None
