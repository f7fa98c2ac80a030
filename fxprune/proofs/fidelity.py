"""Fidelity: before anything is removed, the recorded graph computes what the user's own model does.

The model runs as it is: its own class, its own ``__call__``, hooks and all, on a copy over the same weights. Each side makes
its calls one after the other, so that state which one call leaves for the next shows, too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx, nn

from fxprune.errors import InputError, PruneError, Unfaithful, said
from fxprune.planning.fidelity import Fidelity
from fxprune.proofs.culprit import dtypes_apart, first_difference
from fxprune.proofs.outcomes import Outcome, apart, call
from fxprune.proofs.precision import tolerance_of
from fxprune.proofs.rounding import may_be_rounding
from fxprune.proofs.trials import Trial, batches_of, bound_axes, other_sizes, work_of
from fxprune.state import place_of
from fxprune.tracing.graphs.module import build
from fxprune.tracing.graphs.one_mode import MODES
from fxprune.tracing.tracer import Traced
from fxprune.tracing.untouched import twin_of, untouched

__all__ = ["Proof", "check_fidelity", "prove_fidelity", "recording_of"]

_SIZES = 3  # other sizes that are compared
_WORK = 100e9  # MACs of the model that more than the first batches may take


def check_fidelity(traced: Traced, model: nn.Module, *, thorough: bool = False, seed: int = 0) -> Fidelity:
    """See `prove_fidelity`."""
    return prove_fidelity(traced, model, thorough=thorough, seed=seed).result


def prove_fidelity(traced: Traced, model: nn.Module, *, thorough: bool = False, seed: int = 0) -> Proof:
    """Compare a recording with the model that it was made from.

    In evaluation, on the batch of the example and another one; `thorough`: with gradients, on more batches and sizes, and all
    of it in training, too. In float64 where what differs may be rounding.

    Raises:
        Unfaithful: they differ; the message names the first submodule whose output does.
        InputError: the model itself fails on random inputs of the example's shapes.
    """
    with untouched(model):
        proof = Proof(traced, model, seed)
        proof.run(thorough)
        if proof.failed and proof.dtype is not torch.float64 and proof.may_be_rounding():
            wide = Proof(traced, model, seed, torch.float64)
            try:
                wide.run(thorough)
                # In float64 no code computes in less, be it told to (autocast): such a difference is no rounding.
                proof = proof if proof.computes_in_less() else wide
            except (RuntimeError, PruneError):  # the model's code names float32: what was found in it stands
                pass
        for trial, what in proof.failed:
            raise Unfaithful(proof.message(trial, what))
    return proof


def recording_of(traced: Traced, source: nn.Module) -> fx.GraphModule:
    """The recorded graph over the tensors of `source`, ready to run; what it made beside them is its own."""
    module, _ = build(traced, source, {name: t.detach().clone() for name, t in traced.constants.items()})
    module.recompile()
    return module


@dataclass
class Proof:
    """Calls of both sides in one precision.

    Attributes:
        result: of the calls made so far.
        failed: the calls that differ, each with what does.
        output: what the model returned on inputs of the example's shapes, in evaluation.
        compared: the other inputs in evaluation that both sides took.
    """

    traced: Traced
    model: nn.Module
    seed: int
    dtype: torch.dtype | None = None  # None: what the model's tensors have

    def __post_init__(self) -> None:
        device, own = place_of(self.model)
        self.place = device, self.dtype  # at the model's own precision each input has the dtype of the example
        self.result = Fidelity(tolerance=tolerance_of(self.dtype or own))
        self.failed: list[tuple[Trial, str]] = []
        self.compared: list[Trial] = []
        self.output: Any = None
        self.work = 0.0
        self.dtype = self.dtype or own

    def run(self, thorough: bool) -> None:
        example = self.traced.example
        batch, others = batches_of(example, self.traced.inputs)
        recorded = [training for training in (False, True) if MODES[training] not in self.traced.refused]
        for training in recorded if thorough else recorded[:1]:
            self._start()
            mode = "training" if training else "evaluation"
            self._try(Trial(f"{mode}, batch {batch}" if batch else mode, example, training, thorough))
            for other, inputs in others:
                trial = Trial(f"{mode}, batch {other}", inputs, training)
                if self.compared and self._too_much(trial):
                    continue
                done = self._try(trial, optional=True)
                if done and (training or not thorough):
                    break
            if thorough and not training:
                self._try_sizes(mode)

    def _try_sizes(self, mode: str) -> None:
        done = 0
        for name, inputs in other_sizes(self.traced.example, bound_axes(self.traced)):
            trial = Trial(f"{mode}, {name}", inputs)
            done += not self._too_much(trial) and self._try(trial, optional=True)
            if done == _SIZES:
                return

    def _too_much(self, trial: Trial) -> bool:
        """Whether a trial is left out: of a large model not all sizes run."""
        work = work_of(self.traced, trial)
        if self.work + work <= _WORK:
            return False
        self.result.skipped[trial.name] = f"left out: {work / 1e9:,.0f} GMACs more than {self.work / 1e9:,.0f} so far"
        return True

    def _start(self) -> None:
        """New copies of both sides."""
        wide = self.dtype if self.dtype is torch.float64 else None
        self.own = twin_of(self.model, wide)
        self.recorded = recording_of(self.traced, twin_of(self.model))
        if wide is not None:
            self.recorded.double()

    def _try(self, trial: Trial, optional: bool = False) -> bool:
        """Whether both sides made the call."""
        self.work += work_of(self.traced, trial)
        try:
            own = call(self.own, trial, self.place, self.seed)
        except Exception as error:  # whatever a model raises on an input that it does not take
            if trial.gradients:
                self.result.skipped[f"{trial.name}, gradients"] = f"{type(error).__name__}: {said(error)}"
                self._start()
                return self._try(replace(trial, gradients=False), optional)
            if not optional and not trial.training:
                raise InputError(
                    f"{type(self.model).__name__} itself fails on random inputs of the example's shapes "
                    f"({type(error).__name__}: {said(error)}): give example_inputs that it takes, or verify=False"
                ) from error
            self.result.skipped[trial.name] = f"{type(error).__name__}: {said(error)}"
            self._start()  # whatever the call had done by then
            return False
        return self._compare(trial, own, optional or trial.training)

    def _compare(self, trial: Trial, own: Outcome, optional: bool) -> bool:
        try:
            found = call(self.recorded, trial, self.place, self.seed)
        except Exception as error:
            if optional and isinstance(error, (AssertionError, PruneError)):
                self.result.refused[trial.name] = said(error)
                self._start()
                return False
            self.result.errors[trial.name] = float("inf")
            self.failed.append((trial, f"the recording fails where the model runs ({type(error).__name__}: {said(error)})"))
            return True
        if trial.inputs is self.traced.example and not trial.training:
            self.output = own.output
        elif not trial.training:
            self.compared.append(trial)
        distance, what = apart(found, own)
        self.result.errors[trial.name] = distance
        if not distance <= self.result.tolerance:
            differs = what if " in " in what or " does not" in what else f"{what} is off by {distance:.1e} (relative)"
            self.failed.append((trial, differs))
        return True

    def may_be_rounding(self) -> bool:
        """Whether all that differs is about as far apart as rounding makes it."""
        errors = self.result.errors
        return all(may_be_rounding(self.model, trial, self.place, self.seed, errors[trial.name]) for trial, _ in self.failed)

    def computes_in_less(self) -> bool:
        """Whether the model has values of a dtype that the recording never has, where they differ."""
        return any(dtypes_apart(self.traced, twin_of(self.model), trial, self.place, self.seed) for trial, _ in self.failed[:1])

    def message(self, trial: Trial, what: str) -> str:
        """What to say of a trial that failed."""
        wide = self.dtype if self.dtype is torch.float64 else None
        name = first_difference(self.traced, twin_of(self.model, wide), trial, self.place, self.seed)
        return (
            f"what was recorded of {type(self.model).__name__} does not compute what the model itself does, in {trial.name}: "
            f"{what}. {_where(name)}; write that code in plain operations on tensors, or prune the parts without it with "
            "submodules=[...]"
        )


def _where(name: str | None) -> str:
    if name is None:
        return "No submodule's output differs"
    return f"The first submodule whose output differs is {name!r}" if name else "The difference is in the model's own forward"
