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
    """Outputs by module.

    Attributes:
        outputs: name -> one nested value for each of its calls; `UNKNOWN` stands for what is not known.
    """

    outputs: dict[str, list[Any]]

    @classmethod
    def of(cls, rewritten: Rewritten, slim: fx.GraphModule, inputs: Any) -> Expected:
        """Run a filled slim graph in evaluation."""
        calls = rewritten.cut.analysis.traced.calls
        names = {old: new.name for new, old in rewritten.context.origin.items()}
        wanted = {names[node] for call in calls for node in nested.instances(fx.Node, call.output) if node in names}
        values = values_of(slim, inputs, wanted)
        outputs: dict[str, list[Any]] = {}
        for call in calls:
            known = nested.map(lambda v: values.get(names.get(v, ""), UNKNOWN) if isinstance(v, fx.Node) else v, call.output)
            outputs.setdefault(call.name, []).append(known)
        return cls(outputs)


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
