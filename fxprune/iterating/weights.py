"""Weights between a slim model and the shapes of the original."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fxprune.errors import InputError, shown
from fxprune.inputs.acceptance import check_model, some
from fxprune.planning.report import report_of
from fxprune.state import named_parts, named_tensors, set_modes

__all__ = ["Slim", "put_back"]


class Slim:
    """A slim model before it goes into the user's hands, and what comes back.

    Args:
        module: the model.
        own: names of the original's tensors; others are constants of the graph.
    """

    def __init__(self, module: Any, own: Mapping[str, Tensor]) -> None:
        self.module, self._own = module, set(own)
        self._kinds, self._forms = _kinds(module), _forms(module)
        self._modes = [(part, part.training) for _, part in named_parts(module, once=True)]
        self._fixed = {n: t.detach().clone() for n, t in named_tensors(module, once=True).items() if n not in self._own}

    def weights(self) -> dict[str, Tensor]:
        """Copies of its tensors, those that are constants left out."""
        found = named_tensors(self.module, once=True)
        return {name: tensor.detach().clone() for name, tensor in found.items() if name in self._own}

    def differs(self, weights: Mapping[str, Tensor]) -> bool:
        """Whether one of its tensors has another value than the one of its name here."""
        return any(not torch.equal(value, weights[name].to(value.device)) for name, value in self.weights().items())

    def fill(self, weights: Mapping[str, Tensor]) -> None:
        """Give it the values of tensors by name."""
        with torch.no_grad():
            for name, tensor in named_tensors(self.module, once=True).items():
                if name in self._own:
                    tensor.copy_(weights[name])

    def take(self, given: Any, what: str) -> None:
        """Take the weights of what a user's code gave, or left in the model; its modes are what they were.

        Args:
            given: a model like this one; None is this one, changed in place.
            what: gave it, for messages.

        Raises:
            InputError: it is none, or no longer the slim model with other values.
        """
        module = self.module if given is None else given
        if not isinstance(module, nn.Module):
            raise InputError(f"{what} must train the model in place or return it, not {shown(module)}")
        check_model(module)
        own, theirs = named_tensors(self.module, once=True), named_tensors(module, once=True)
        self._compare(theirs, module, what)
        with torch.no_grad():
            for name, tensor in own.items():
                if module is not self.module:
                    tensor.copy_(theirs[name])
        set_modes(self._modes)
        if (report := report_of(module)) is not None and report.finetuning is not None:
            self.module.meta["fxprune"].finetuning = report.finetuning

    def _compare(self, theirs: Mapping[str, Tensor], module: nn.Module, what: str) -> None:
        forms = _forms(module)
        other = [name for name in self._forms.keys() | forms.keys() if self._forms.get(name) != forms.get(name)]
        if not other:
            other = [name for name, value in self._fixed.items() if not torch.equal(value, theirs[name].to(value.device))]
        if other or _kinds(module) != self._kinds:
            found = f": {some(sorted(other))} differ" if other else ": it has other parts"
            raise InputError(
                f"{what} left another model than the slim one with other values{found}; "
                "fold or take off what was added to it, and let names, shapes and dtypes be"
            )
        wrong = [n for n, t in theirs.items() if n in self._own and t.is_floating_point() and not torch.isfinite(t).all()]
        fresh = [n for n in wrong if isinstance(theirs[n], nn.Parameter)]
        if fresh:
            raise InputError(f"{what} left weights that are NaN or infinite: {some(fresh)}")


def _forms(module: nn.Module) -> dict[str, tuple[Any, ...]]:
    return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in named_tensors(module, once=True).items()}


def _kinds(module: nn.Module) -> dict[str, str]:
    """Class names of all parts but the model itself, which may be a copy of another class."""
    return {name: type(part).__name__ for name, part in named_parts(module, once=True) if name}


def put_back(model: nn.Module, weights: Mapping[str, Tensor], kept: Mapping[str, Mapping[int, np.ndarray]]) -> None:
    """Put the weights of a slim model into their places in a model of the original's shapes; the rest of it stays.

    Args:
        kept: ``{tensor name: {axis: kept indices}}`` of every axis that lost something.
    """
    with torch.no_grad():
        for name, tensor in named_tensors(model, once=True).items():
            if name not in weights:
                continue
            value, axes = weights[name].to(tensor.device), kept.get(name)
            if not axes:
                tensor.copy_(value)
                continue
            places = np.ix_(*(axes.get(axis, np.arange(size)) for axis, size in enumerate(tensor.shape)))
            tensor[tuple(torch.from_numpy(np.ascontiguousarray(place)).to(tensor.device) for place in places)] = value
