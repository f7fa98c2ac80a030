"""The contract of a pass, and the runner that enforces it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, fx

from fxprune.analysis.cut import Cut
from fxprune.errors import PruneError
from fxprune.labels.store import axes_in
from fxprune.tracing.tracer import Traced

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
        cut: the channels that go, and what remains of every axis of the original.
        origin: node of the graph being rewritten -> node of the traced graph, whose values and labels are known.
        constants: real values of the graph's constants; passes may add some.
        counters: what each pass did.
    """

    cut: Cut
    origin: dict[fx.Node, fx.Node]
    constants: dict[str, Tensor]
    counters: dict[str, Counter[str]] = field(default_factory=dict)

    @property
    def traced(self) -> Traced:
        """The graph of the original."""
        return self.cut.analysis.traced

    def axes(self, node: fx.Node) -> Any:
        """Labels of a node's value in the original model: a tensor's axes, or nested values of such; none of a new node."""
        return self.traced.axes[self.origin[node]] if node in self.origin else ()

    def groups_touching(self, *nodes: fx.Node) -> list[str]:
        """Free groups that lose channels in the values of these nodes or of those that they read."""
        return self.cut.groups_at([a for n in nodes for m in (n, *n.all_input_nodes) for a in axes_in(self.axes(m))])


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
