"""The contract of a pass, and the runner that enforces it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from torch import Tensor, fx

from fxprune.analysis.analysis import Analysis
from fxprune.errors import PruneError
from fxprune.labels.store import Axis

__all__ = ["Context", "Mismatch", "Pass", "run_passes"]


class Mismatch(PruneError):
    """A node does not have the shape that the analysis predicts; `groups` are those that touch it."""

    def __init__(self, message: str, groups: list[str]) -> None:
        super().__init__(message)
        self.groups = groups


@dataclass(eq=False)
class Context:
    """What passes know of the model that they rewrite.

    Attributes:
        analysis: labels and groups of the original.
        removed: bool array ``[classes]``.
        origin: node of the graph being rewritten -> node of the traced graph, whose values and labels are known.
        constants: real values of the graph's constants; passes may add some.
        counters: what each pass did.
    """

    analysis: Analysis
    removed: np.ndarray
    origin: dict[fx.Node, fx.Node]
    constants: dict[str, Tensor]
    counters: dict[str, Counter[str]] = field(default_factory=dict)

    def axes(self, node: fx.Node) -> tuple[Axis, ...]:
        """Labels of a node's tensor in the original model."""
        found: tuple[Axis, ...] = self.analysis.traced.axes[self.origin[node]]
        return found

    def kept(self, axis: Axis) -> np.ndarray | None:
        return self.analysis.kept(axis, self.removed)

    def size(self, axis: Axis) -> int:
        return self.analysis.size(axis, self.removed)

    def shape(self, axes: Sequence[Axis]) -> tuple[int, ...]:
        return tuple(self.size(a) for a in axes)

    def below(self, axis: Axis, index: int) -> int:
        """How many entries remain before `index`."""
        kept = self.kept(axis)
        return index if kept is None else int(np.searchsorted(kept, index))

    def groups_at(self, axes: Sequence[Axis]) -> list[str]:
        """Free groups that lose channels along these axes."""
        touched = {int(c) for a in axes if a.labels is not None for c in self.analysis.solution.root[a.labels]}
        touched = {c for c in touched if self.removed[c]}
        parts = set(touched)
        for whole, left, right in self.analysis.solution.composites:
            if touched & set(whole.tolist()):
                parts |= {int(c) for c in (*left, *right) if self.removed[c]}
        return [g.id for g in self.analysis.free if parts & set(g.labels.tolist())]


@dataclass(frozen=True)
class Pass:
    """One rewrite.

    `requires` and `ensures` raise `PruneError` where the graph is not as the pass needs or promises it.
    """

    name: ClassVar[str] = ""

    def requires(self, module: fx.GraphModule, context: Context) -> None:
        """Nothing, for most passes."""

    def run(self, module: fx.GraphModule, context: Context) -> Counter[str]:
        """Rewrite `module` in place (it is the runner's own copy); return what was done."""
        raise NotImplementedError

    def ensures(self, module: fx.GraphModule, context: Context) -> None:
        """Nothing, for most passes."""


def run_passes(module: fx.GraphModule, passes: Sequence[Pass], context: Context) -> fx.GraphModule:
    """Run passes one after the other; an error names the pass and those before it. The resulting graph is linted."""
    done: list[str] = []
    for step in passes:
        try:
            step.requires(module, context)
            context.counters[step.name] = step.run(module, context)
            step.ensures(module, context)
        except Mismatch:
            raise
        except PruneError as error:
            after = f" (after {', '.join(done)})" if done else ""
            raise type(error)(f"pass {step.name}{after}: {error}") from error
        done.append(step.name)
    module.graph.lint()
    module.recompile()
    return module
