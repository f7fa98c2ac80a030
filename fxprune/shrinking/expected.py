"""What the slim graph computes at each call of a module of the model."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from fxprune import nested
from fxprune.inputs.examples import own_copy
from fxprune.rewrite import Rewritten
from fxprune.tracing.contexts.regions import entered

__all__ = ["UNKNOWN", "Expected", "values_of"]

UNKNOWN = object()  # what a node that went would have computed


@dataclass(frozen=True, eq=False)
class Expected:
    """What goes in and comes out, by module: one nested value for each of its calls; `UNKNOWN` stands for what is not known.

    Attributes:
        inputs: ``(args, kwargs)``.
        outputs: what forward returns.
    """

    inputs: dict[str, list[Any]]
    outputs: dict[str, list[Any]]

    @classmethod
    def of(cls, rewritten: Rewritten, slim: fx.GraphModule, inputs: Any) -> Expected:
        """Run a filled slim graph in evaluation."""
        calls = rewritten.cut.analysis.traced.calls
        names = {old: new.name for new, old in rewritten.context.origin.items()}
        held = [n for call in calls for n in nested.instances(fx.Node, (call.args, call.kwargs, call.output))]
        values = values_of(slim, inputs, {names[node] for node in held if node in names})

        def known(value: Any) -> Any:
            return nested.map(lambda v: values.get(names.get(v, ""), UNKNOWN) if isinstance(v, fx.Node) else v, value)

        found = cls({}, {})
        for call in calls:
            found.inputs.setdefault(call.name, []).append(known((call.args, call.kwargs)))
            found.outputs.setdefault(call.name, []).append(known(call.output))
        return found


def values_of(slim: fx.GraphModule, inputs: Any, wanted: Collection[str]) -> dict[str, Any]:
    """The values of nodes by name, in evaluation."""
    noting = _Noting(slim, wanted)
    args, named = own_copy(inputs)
    with torch.no_grad():
        noting.run(*args, *named.values())
    return noting.found


class _Noting(fx.Interpreter):
    """Runs a graph in evaluation, and keeps copies of the values of some nodes."""

    def __init__(self, module: fx.GraphModule, wanted: Collection[str]) -> None:
        super().__init__(module)
        self.wanted = wanted
        self.found: dict[str, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        with entered(n, gradients=False):
            value = None if n.meta.get("mode") == "training" else super().run_node(n)
        if n.name in self.wanted:
            self.found[n.name] = nested.map(lambda v: v.detach().clone() if isinstance(v, Tensor) else v, value)
        return value
