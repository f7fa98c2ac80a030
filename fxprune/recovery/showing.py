"""The pass of `validate` over the data: every model sees every batch, and comes out as it was."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import nn

from fxprune import nested
from fxprune.errors import InputError, said, shown
from fxprune.inputs.calls import Call, signature_of
from fxprune.planning.report import report_of
from fxprune.recovery.comparing import Costs, Distance
from fxprune.recovery.tally import Tally, class_numbers, logits_of
from fxprune.state import named_parts, named_tensors, place_of, set_modes
from fxprune.statistics.costs import macs_of, seconds_in_turns

__all__ = ["Show", "buffers_put_back", "evaluated"]

_ROUNDS = 15  # of the latency measurement


class Show:
    """The pass over the data."""

    def __init__(self, models: Mapping[str, nn.Module], metrics: Mapping[str, Any], loss: Any, autocast: Any) -> None:
        self.models, self.autocast = models, autocast
        self.wanted = [*metrics, *(["the loss"] if loss is not None else [])]
        self.signature = signature_of(*[*models.values()][1:], models["dense"])
        self.tallies = {name: Tally(metrics, loss) for name in models}
        self.distances = {name: Distance() for name in models if name != "dense"}
        self.first: Call | None = None
        self.images, self.notes = 0, list[str]()
        self.labelled: bool | None = None
        self.classes: int | None = None  # that the dense model tells apart

    def all(self, batches: Iterable[Any]) -> None:
        """
        Raises:
            InputError: there are none, or they do not fit.
        """
        for batch in batches:
            call = self.signature.read(batch)
            if self.first is None:
                self.first, self.labelled = call, call.labels is not None
            if self.labelled != (call.labels is not None):
                raise InputError(
                    f"some batches have labels, others not: the one after {self.images} images differs from the first"
                )
            if call.labels is None and self.wanted:
                raise InputError(f"the data have no labels, which {self.wanted[0]} needs: give batches of inputs and labels")
            outputs = {name: self.run(name, call) for name in self.models}
            self._check(outputs["dense"], call)
            for name, output in outputs.items():
                self.tallies[name].add(output, _like(call.labels, output), call.images)
                if name != "dense":
                    self.distances[name].add(outputs["dense"], output)
            self.images += call.images
        if not self.images:
            raise InputError("loader holds no batches: a generator that was used up, or an empty loader?")
        self._note_broken()

    def run(self, name: str, call: Call) -> Any:
        """
        Raises:
            InputError: the model fails on it.
        """
        device, _ = place_of(self.models[name])
        with torch.no_grad(), torch.autocast(device.type, self.autocast, enabled=self.autocast is not None):
            try:
                return call.on(device).of(self.models[name])
            except Exception as error:
                told = f"{type(error).__name__}: {said(error)}"
                raise InputError(f"the {name} model failed on a batch of {call.images} images: {told}") from error

    def _check(self, output: Any, call: Call) -> None:
        """Say what is missing where figures would silently be left out."""
        if call.labels is None or self.wanted:
            return
        logits = logits_of(output, call.images)
        if logits is None:
            form = f"of shape {tuple(output.shape)}" if hasattr(output, "shape") else f"a {type(output).__name__}"
            raise InputError(
                f"the model's output is {form}, no logits [{call.images}, classes], and the data have labels: say with metric= "
                "or loss= what is to be measured, or give inputs alone"
            )
        self.classes = logits.shape[1]
        if class_numbers(call.labels, call.images, self.classes) is None:
            form = f"{call.labels.dtype} {tuple(call.labels.shape)}" if hasattr(call.labels, "dtype") else shown(call.labels)
            raise InputError(
                f"labels must be one class number an image, not {form}: say with metric= or loss= what is measured"
            )

    def _note_broken(self) -> None:
        for name, tally in self.tallies.items():
            broken = int((tally.columns["said"] < 0).sum()) if "said" in tally.columns else 0
            if broken:
                self.notes.append(f"the {name} model's output is not a number for {broken:,} images, which count as wrong")

    def note_classes(self, loader: Any) -> None:
        """Say where the data have fewer classes than the model: if a folder is missing, those after it have wrong numbers."""
        there = getattr(getattr(loader, "samples", None), "classes", None)
        if there is not None and self.classes is not None and there < self.classes:
            self.notes.append(
                f"the data have {there} classes, the model tells {self.classes} apart: if the folder of one is missing, those "
                "after it are numbered wrongly"
            )

    def costs(self, timed: bool) -> dict[str, Costs]:
        """What each model costs, on the first batch."""
        assert self.first is not None
        call = self.first
        macs = {name: macs_of(partial(self.run, name, call)) for name in self.models}
        seconds: dict[str, float | None] = dict.fromkeys(self.models)
        if timed:
            places = {name: place_of(model)[0] for name, model in self.models.items()}
            calls = {name: call.on(place) for name, place in places.items()}
            runs = [partial(self.run, name, calls[name]) for name in self.models]
            found = seconds_in_turns(runs, places["dense"], _ROUNDS)
            seconds = {name: median(rounds) for name, rounds in zip(self.models, found, strict=True)}
            if len({*places.values()}) > 1:
                self.notes.append("the models are on several devices: their latencies do not compare")
        return {
            name: Costs(round(macs[name] / call.images), sum(p.numel() for p in _parameters(self.models[name])), seconds[name])
            for name in self.models
        }


def _parameters(model: nn.Module) -> list[Any]:
    return [t for t in named_tensors(model, once=True).values() if isinstance(t, nn.Parameter)]


def _like(labels: Any, output: Any) -> Any:
    """Labels on the device of an output."""
    device = next((t.device for t in nested.tensors(output)), None)
    return labels if device is None else nested.map(lambda v: v.to(device) if isinstance(v, torch.Tensor) else v, labels)


@contextmanager
def evaluated(models: Iterable[nn.Module], notes: list[str]) -> Iterator[None]:
    """Inside, models are in evaluation mode; afterwards every part is in its own again."""
    with ExitStack() as after:
        for model in models:
            after.callback(set_modes, [(part, part.training) for _, part in named_parts(model, once=True)])
            report = report_of(model)
            training = report is not None and "evaluation" in report.refused
            if training:
                notes.append("a slim model has no evaluation mode: it ran in training mode, where dropout and norms act")
            model.train(training)
        yield


@contextmanager
def buffers_put_back(models: Iterable[nn.Module]) -> Iterator[None]:
    """Inside, forward may write into buffers; afterwards they hold what they held."""
    tensors = {
        id(t): t for model in models for t in named_tensors(model, once=True).values() if not isinstance(t, nn.Parameter)
    }
    before = [(tensor, tensor.detach().clone()) for tensor in tensors.values()]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, values in before:
                tensor.copy_(values)
