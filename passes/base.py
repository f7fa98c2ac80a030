"""The contract of a pass, and the runner that enforces it."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from torch import Tensor, fx

from fxprune.analysis.cut import Cut
from fxprune.errors import PruneError
from fxprune.labels.store import axes_in
from fxprune.tracing.tracer import Traced

__all__ = ["Context", "Mismatch", "Pass", "PassResult", "Stage", "lint", "run_passes"]

Stage = Literal["shapes", "weights", "training", "deployment"]


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
        notes: what else to know, in sentences of the report.
    """

    cut: Cut
    origin: dict[fx.Node, fx.Node]
    constants: dict[str, Tensor]
    counters: dict[str, Counter[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

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
class PassResult:
    """What a pass did.

    Attributes:
        modified: the graph, a module or a tensor is not what it was.
        counters: how often it did what, for the report.
    """

    modified: bool
    counters: Counter[str]

    @classmethod
    def of(cls, **counts: int) -> PassResult:
        """Counters by name (``nodes_removed=2`` is shown as "nodes removed"); modified if one is not 0."""
        return cls(any(counts.values()), Counter({name.replace("_", " "): n for name, n in counts.items()}))


@dataclass(frozen=True)
class Pass:
    """One rewrite. To add one: a subclass in a file of its own, a line in `fxprune.passes.registry`, a test that shows the
    code before and after.

    `requires` and `ensures` raise `PruneError` where the graph is not as the pass needs or promises it.

    Attributes:
        name: in the registry and in reports.
        stage: ``"shapes"``: the model is on the meta device, and channels have yet to go; ``"weights"``: it holds the user's
            kept weights (batch norms can be folded). The result of both is compared with the original. ``"training"``: no
            rewrite runs it; a function of its own does, on a model that was pruned or on any other, with no context.
            ``"deployment"``: `fxprune.optimize` runs it, with no context, on a copy in evaluation whose nodes may know the
            shape of their value (``node.meta["shape"]``).
        shapes: what holds of the nodes' shapes after the pass: ``"open"``, modules and tensors have changed, the graph has
            not, and does not run yet; ``"checked"``, the pass knows that each is as predicted; ``"unchecked"``, the runner
            finds out.
        optional: it runs only where it is asked for.
    """

    name: ClassVar[str] = ""
    stage: ClassVar[Stage] = "shapes"
    optional: ClassVar[bool] = False
    shapes: ClassVar[Literal["open", "checked", "unchecked"]] = "unchecked"

    def requires(self, module: fx.GraphModule, context: Context) -> None:
        """Nothing, for most passes."""

    def run(self, module: fx.GraphModule, context: Context) -> PassResult:
        """Rewrite `module` in place (it is the runner's own copy)."""
        raise NotImplementedError

    def ensures(self, module: fx.GraphModule, context: Context) -> None:
        """Nothing, for most passes."""


def run_passes(module: fx.GraphModule, passes: Sequence[Pass], context: Context) -> fx.GraphModule:
    """Run passes one after the other. After each that changed the graph it is linted, and its shapes are checked.

    Raises:
        Mismatch: a node does not have the shape that is predicted.
        PruneError: a pass refuses; the message names it and those before it.
    """
    from fxprune.passes.shapes import check_shapes

    done: list[str] = []
    for step in passes:
        try:
            step.requires(module, context)
            result = step.run(module, context)
            step.ensures(module, context)
            if result.modified and step.shapes != "open":
                lint(module)
                if step.shapes == "unchecked":
                    check_shapes(module, context)
        except Mismatch:
            raise
        except PruneError as error:
            after = f" (after {', '.join(done)})" if done else ""
            raise type(error)(f"pass {step.name}{after}: {error}") from error
        context.counters[step.name] = context.counters.get(step.name, Counter()) + result.counters
        done.append(step.name)
    module.recompile()
    return module


def lint(module: fx.GraphModule) -> None:
    """Refuse a broken graph. PyTorch 2.6 warns there of attributes that are no tensors: a graph reads modes."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Node .* does not reference an nn.Module")
            warnings.filterwarnings("ignore", "Additional .* warnings suppressed about get_attr")
            module.graph.lint()
    except RuntimeError as error:
        raise PruneError(f"the graph is broken: {error}") from error
