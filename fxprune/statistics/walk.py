"""Run a traced model node by node, and show values on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn

from fxprune.analysis.analysis import Analysis
from fxprune.errors import InputError, PruneError, said
from fxprune.inputs.examples import own_copy
from fxprune.tracing.contexts.regions import entered
from fxprune.tracing.graphs.modes import in_evaluation
from fxprune.tracing.graphs.module import build

__all__ = ["Look", "Looks", "Runner"]

Look = Callable[..., None]  # takes the values of its sources
Looks = Mapping[str, list[tuple[tuple[str, ...], Look]]]


class Runner:
    """The traced model in evaluation mode, over the tensors of the user's model, which stays as it is.

    Attributes:
        module: the GraphModule.
        device: where its tensors are.
        tensors: its parameters under all their names.
    """

    def __init__(self, model: nn.Module, analysis: Analysis) -> None:
        found = next((t for t in (*model.parameters(), *model.buffers())), None)
        self.device = torch.device("cpu") if found is None else found.device
        constants = {name: value.to(self.device) for name, value in analysis.traced.constants.items()}
        self.module, _ = build(analysis.traced, model, constants)
        self.module.recompile()
        self.module.eval()
        self.tensors = dict(self.module.named_parameters(remove_duplicate=False))
        self._needed = in_evaluation(self.module.graph)

    def observe(self, inputs: tuple[Any, ...], looks: Looks) -> None:
        """Run a batch without gradients; after node ``k`` call each ``(sources, look)`` of ``looks[k]`` with the values
        of the nodes `sources`, as they are at that moment."""
        with torch.no_grad(), failing("the model"):
            _Walk(self.module, self._needed, looks).run(*own_copy(inputs))


@contextmanager
def failing(what: str) -> Iterator[None]:
    """Says of an error what failed on a batch.

    Raises:
        InputError: instead of an error that is none of fxprune's.
    """
    try:
        yield
    except PruneError:
        raise
    except Exception as error:
        raise InputError(f"{what} failed on a batch of the data: {type(error).__name__}: {said(error)}") from error


class _Walk(fx.Interpreter):
    def __init__(self, module: fx.GraphModule, needed: set[str], looks: Looks) -> None:
        super().__init__(module)
        self.extra_traceback = False  # which is added to the text of our own errors, too
        self.needed, self.looks = needed, looks
        self._until: dict[str, str] = {}  # of a value that is looked at later than the graph needs it, the node up to which
        for node in module.graph.nodes:
            near = {node.name, *(n.name for n in node.all_input_nodes)}
            self._until |= {s: node.name for sources, _ in looks.get(node.name, ()) for s in sources if s not in near}
        self._held: dict[str, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        if n.name not in self.needed and n.op != "placeholder":
            return None
        if n.target is torch._assert:
            self._hold(n)
            return None
        with entered(n, gradients=False):
            value = super().run_node(n)
        if n.name in self._until:
            self._held[n.name] = value
        near = {i.name: self.env[i] for i in n.all_input_nodes} if n.name in self.looks else {}
        for sources, look in self.looks.get(n.name, ()):
            look(*(near[s] if s in near else self._held.get(s, value) for s in sources))
        for name in [name for name, last in self._until.items() if last == n.name]:
            self._held.pop(name, None)
        return value

    def _hold(self, n: fx.Node) -> None:
        condition, message = self.fetch_args_kwargs_from_env(n)[0]
        if not condition:
            raise InputError(f"a batch does not fit the model as it was traced ({message}): trace it on inputs of that size")
