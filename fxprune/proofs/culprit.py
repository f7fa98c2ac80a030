"""Which submodule of a model computes something else than its recording: the first, in the order in which calls end."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxprune import nested
from fxprune.inputs.examples import own_copy, random_like
from fxprune.proofs.errors import relative_error
from fxprune.proofs.trials import Trial
from fxprune.state import named_parts
from fxprune.tracing.graphs.module import build
from fxprune.tracing.tracer import Traced
from fxprune.tracing.untouched import seed_all

__all__ = ["dtypes_apart", "first_difference"]

_SAME = 1e-5
Place = tuple[torch.device, torch.dtype | None]


def first_difference(traced: Traced, model: nn.Module, trial: Trial, place: Place, seed: int) -> str | None:
    """Name of the first module that makes of inputs which nodes of the recording have an output that none has.

    Calls are compared by value: a module's forward leaves no node of its own in the graph. "" stands for the model itself;
    None: every output is there. The model is hooked: give a copy.
    """
    calls = _calls(model, trial, place, seed)
    values = _values_of_nodes(traced, model, trial, place, seed)

    def known(value: Any) -> bool:
        return all(
            any(relative_error(other, tensor) <= _SAME for other in values.get((tensor.shape, tensor.dtype), ()))
            for tensor in nested.tensors(value)
        )

    wrong = [(name, inputs) for name, inputs, output in calls if not known(output)]
    return next((name for name, inputs in wrong if known(inputs)), "" if wrong else None)


def dtypes_apart(traced: Traced, model: nn.Module, trial: Trial, place: Place, seed: int) -> bool:
    """Whether modules return tensors of a dtype that no node of the recording has. The model is hooked: give a copy."""
    own = {t.dtype for _, _, output in _calls(model, trial, place, seed) for t in nested.tensors(output)}
    return not own <= {dtype for _, dtype in _values_of_nodes(traced, model, trial, place, seed)}


def _calls(model: nn.Module, trial: Trial, place: Place, seed: int) -> list[tuple[str, Any, Any]]:
    """Name, inputs and output of each call of a module, in the order in which the calls ended."""
    found: list[tuple[str, Any, Any]] = []
    running: list[tuple[nn.Module, Any]] = []

    def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
        running.append((module, own_copy((args, kwargs))))

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        while running:
            entered, inputs = running.pop()
            if entered is module:
                found.append((names[module], inputs, own_copy(output)))
                return

    names = {part: name for name, part in named_parts(model, once=True)}
    handles = [part.register_forward_pre_hook(enter, prepend=True, with_kwargs=True) for part in names]
    handles += [part.register_forward_hook(leave) for part in names]
    with suppress(Exception):  # as far as it came
        _run(model, trial, place, seed)
    for handle in handles:
        handle.remove()
    return found


def _values_of_nodes(traced: Traced, model: nn.Module, trial: Trial, place: Place, seed: int) -> dict[Any, list[Tensor]]:
    """The tensors that the recording computes, by shape and dtype."""
    module, _ = build(traced, model, {name: t.detach().clone() for name, t in traced.constants.items()})
    module.train(trial.training)
    noting = _Noting(module, trial.training)
    seed_all(seed)
    args, named = own_copy(random_like(trial.inputs, *place, seed))
    with suppress(Exception), torch.no_grad():  # as far as it came
        noting.run(*args, *named.values())
    return noting.found


class _Noting(fx.Interpreter):
    """Runs the nodes of one mode, and keeps copies of all tensors."""

    def __init__(self, module: fx.GraphModule, training: bool) -> None:
        super().__init__(module)
        self.found: dict[Any, list[Tensor]] = {}
        self.other = "evaluation" if training else "training"

    def run_node(self, n: fx.Node) -> Any:
        value = None if n.meta.get("mode") == self.other else super().run_node(n)
        for tensor in nested.tensors(value):
            self.found.setdefault((tensor.shape, tensor.dtype), []).append(tensor.detach().clone())
        return value


def _run(model: nn.Module, trial: Trial, place: Place, seed: int) -> None:
    args, named = own_copy(random_like(trial.inputs, *place, seed))
    model.train() if trial.training else model.eval()
    seed_all(seed)
    with torch.no_grad():
        model(*args, **named)
