"""What a cost is to a search under budgets: a function of how many channels each group keeps, with its slopes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from fxprune.analysis.analysis import Analysis

__all__ = ["Costs", "Joined", "Latency"]


class Costs(Protocol):
    """One or more costs. `kept` below is a float array ``[groups]``: channels kept of each group of ``analysis.free``.

    A cost may have several rows, all of one name: then it is the largest of them (the memory at each moment of a run).

    Attributes:
        names: of the cost of each row.
        exact: every choice of as many channels of the groups costs the same; else what a choice costs is for `Cut` to say.
        convex: bool array ``[rows]``: a row's logarithm is a convex function of the logarithms of `kept`, and the row grows by
            its slope at least. True of sums of products of widths; then the search can bound what is left to gain.
    """

    @property
    def names(self) -> tuple[str, ...]: ...

    @property
    def exact(self) -> bool: ...

    @property
    def convex(self) -> np.ndarray: ...

    def values(self, kept: np.ndarray) -> np.ndarray:
        """Float array ``[rows]``; never less where more is kept."""
        ...

    def slopes(self, kept: np.ndarray) -> np.ndarray:
        """Float array ``[rows, groups]``: about what one more channel of a group adds to each row."""
        ...


class Latency(Costs, Protocol):
    """The time of one run, in nanoseconds, as a table of measurements predicts it (`fxprune.profiling.predicted`)."""

    def within(self, analysis: Analysis) -> Costs:
        """The same without the branches that are gone from an analysis."""
        ...


@dataclass(frozen=True, eq=False)
class Joined:
    """Several costs side by side.

    >>> import fxprune
    >>> analysis = fxprune.analyze(net, x)
    >>> analysis.batch  # the example is recorded as a batch of two
    2
    >>> costs = Joined([analysis.polynomials, analysis.memory])
    >>> costs.names, costs.values(np.array([8.0])).tolist()
    (('macs', 'params', 'memory'), [160.0, 90.0, 80.0])
    """

    several: Sequence[Costs]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for costs in self.several for name in costs.names)

    @property
    def exact(self) -> bool:
        return all(costs.exact for costs in self.several)

    @property
    def convex(self) -> np.ndarray:
        return np.concatenate([costs.convex for costs in self.several])

    def values(self, kept: np.ndarray) -> np.ndarray:
        return np.concatenate([costs.values(kept) for costs in self.several])

    def slopes(self, kept: np.ndarray) -> np.ndarray:
        return np.vstack([costs.slopes(kept) for costs in self.several])
