"""What all methods of sparse learning share: when they are called, what they tell, and how they resume."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import isfinite
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fxprune.analysis.analysis import Analysis, analyze_model
from fxprune.errors import InputError, NothingToPrune, shown
from fxprune.inputs.acceptance import check_model, check_values, some
from fxprune.inputs.examples import settle_inputs
from fxprune.options import real
from fxprune.recovery.sparsity.coupled import Coupled

__all__ = ["Sparsity", "positive"]

_NEAR = 0.01  # of the strongest channel of a group: what is less is near zero


class Sparsity:
    """A method that makes whole channels vanish while a model is trained by any loop::

        method = GroupPenalty(model, example_inputs)
        for x, y in loader:
            loss(model(x), y).backward()
            method.before_step()        # once for each optimizer step; method.before_step(scaler.get_scale()) with a scaler
            optimizer.step()
            optimizer.zero_grad()
            method.after_step()

    What it does follows from the weights and the number of steps alone, so that processes with equal weights
    (DistributedDataParallel, whose backward has averaged the gradients) stay equal, and ``state_dict`` is all that a resumed
    run needs. Parameters that are frozen, or outside of the groups that may lose channels, get nothing from it.

    Args:
        model: the module that is trained, not its wrapper for several processes; it may be wrapped, moved, or cast later.
        example_inputs: as `fxprune.prune` takes them. Or what `fxprune.analyze` gave for this model, where there is more to
            say: ``fxprune.analyze(model, x, ignore=["stem"])``.

    Attributes:
        analysis: the groups of coupled channels.
        steps: optimizer steps so far.

    Raises:
        InputError: `model` is none, or the analysis is of another model.
        TraceError: it cannot be recorded as one graph.
        NothingToPrune: no channel may go.
    """

    biases: ClassVar[bool] = True  # whether biases and shifts vanish with their channels

    def __init__(self, model: nn.Module, example_inputs: Any = None, *, biases: bool | None = None) -> None:
        check_model(model)
        check_values(model, "train a model that has some")
        if isinstance(example_inputs, Analysis):
            self.analysis = example_inputs
        else:
            args, named = settle_inputs(model, example_inputs)
            self.analysis = analyze_model(model, args, named)
        if not self.analysis.free:
            raise NothingToPrune(self.analysis.nothing())
        self.model = model
        self.coupled = Coupled(model, self.analysis, type(self).biases if biases is None else biases)
        self.steps = 0

    # -- in the loop -------------------------------------------------------------------------------------------------

    def before_step(self, scale: float | Tensor = 1.0) -> None:
        """Add the gradient of `penalty` to those of the loss: after the last backward of a step, before the optimizer's.

        Args:
            scale: what the gradients were multiplied by, ``scaler.get_scale()``; 1 once they are unscaled.
        """
        with torch.no_grad():
            for name, added in self.gradients().items():
                parameter = self.coupled.parameter(name)
                added = (added if isinstance(scale, float) and scale == 1 else added * scale).to(parameter.dtype)
                if parameter.grad is None:
                    parameter.grad = added
                else:
                    parameter.grad.add_(added)

    def after_step(self) -> None:
        """Note that the optimizer has done a step."""
        self.steps += 1

    def gradients(self) -> dict[str, Tensor]:
        """``{parameter name: the gradient of penalty}``, of parameters that are not frozen; without history."""
        return {}

    def penalty(self) -> Tensor:
        """The same as a value that can be added to a loss, in the place of `before_step`: its gradient is that of `gradients`.

        With gradient accumulation it goes into one of the losses.
        """
        raise NotImplementedError

    @contextmanager
    def evaluated(self, copy: nn.Module) -> Iterator[None]:
        """Inside, a copy of the model gives what the model gives in evaluation, also where that takes more than its weights."""
        yield

    # -- what is told ------------------------------------------------------------------------------------------------

    def scores(self) -> dict[str, Tensor]:
        """``{group id: [channels]}``: how much is left of each channel, the norm of all that belongs to it."""
        with torch.no_grad():
            return {group: squares.sqrt() for group, squares in self.coupled.squares().items()}

    def off(self) -> dict[str, Tensor]:
        """``{group id: numbers of channels}`` that have all but vanished: less than 1 % of the strongest of their group."""
        return {group: torch.nonzero(s <= _NEAR * s.max()).flatten() for group, s in self.scores().items()}

    def progress(self) -> dict[str, float]:
        """Numbers for a log: channels that may go, those that are off, their share, and the penalty."""
        total, off = sum(len(s) for s in self.scores().values()), sum(len(c) for c in self.off().values())
        with torch.no_grad():
            return {"channels": total, "off": off, "share": off / total, "penalty": float(self.penalty())}

    def describe(self) -> dict[str, Any]:
        """The method and its settings as JSON: what a run that is continued must have in common with the first part."""
        return {"method": type(self).__name__, **self.settings()}

    def settings(self) -> dict[str, Any]:
        """The settings as JSON."""
        return {}

    # -- state -------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Tensor]:
        """All that a resumed run needs beside the weights, as plain tensors: for safetensors, or ``torch.save``."""
        return {"steps": torch.tensor(self.steps)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on where `state_dict` was taken.

        Raises:
            InputError: it is of another method or model; nothing is changed.
        """
        own = self.state_dict()
        wrong = [n for n in own.keys() | state.keys() if n not in own or n not in state or own[n].shape != state[n].shape]
        if wrong:
            raise InputError(f"the state is of another method or model: {some(sorted(wrong))} differ")
        self.steps = int(state["steps"])

    def remove(self) -> None:
        """Take from the model what the method may have put there."""


def positive(value: Any, name: str) -> float:
    """A setting that must be a number above 0.

    Raises:
        InputError: it is none.
    """
    number = real(value)
    if number is None or not (number > 0 and isfinite(number)):
        raise InputError(f"{name} must be a number above 0, not {shown(value)}")
    return float(number)
