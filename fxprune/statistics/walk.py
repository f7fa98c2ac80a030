"""Run a traced model node by node, and show values on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxprune.analysis.analysis import Analysis
from fxprune.errors import InputError, PruneError, said
from fxprune.inputs.examples import own_copy
from fxprune.tracing.contexts.regions import entered
from fxprune.tracing.graphs.modes import in_evaluation
from fxprune.tracing.graphs.module import build

__all__ = ["Look", "Runner"]

Look = Callable[[Tensor], None]


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

    def observe(self, inputs: tuple[Any, ...], looks: Mapping[str, list[tuple[str, Look]]]) -> None:
        """Run a batch without gradients; after node ``k`` call each ``(source, look)`` of ``looks[k]`` with the value
        of node `source`, as it is at that moment."""
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
    def __init__(self, module: fx.GraphModule, needed: set[str], looks: Mapping[str, list[tuple[str, Look]]]) -> None:
        super().__init__(module)
        self.extra_traceback = False  # which is added to the text of our own errors, too
        self.needed, self.looks = needed, looks

    def run_node(self, n: fx.Node) -> Any:
        if n.name not in self.needed and n.op != "placeholder":
            return None
        if n.target is torch._assert:
            self._hold(n)
            return None
        with entered(n, gradients=False):
            value = super().run_node(n)
        for source, look in self.looks.get(n.name, ()):
            at = next((self.env[i] for i in n.all_input_nodes if i.name == source), value)
            look(at)
        return value

    def _hold(self, n: fx.Node) -> None:
        condition, message = self.fetch_args_kwargs_from_env(n)[0]
        if not condition:
            raise InputError(f"a batch does not fit the model as it was traced ({message}): trace it on inputs of that size")
