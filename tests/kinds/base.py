"""What a case of a kind is, and the parts that many are made of."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Case", "Written", "images", "net", "output_of_transformers", "rows", "with_transformers"]


def output_of_transformers(name: str, **fields: Any) -> Any:
    """An object of transformers.modeling_outputs, which takes a second to import."""
    return getattr(importlib.import_module("transformers.modeling_outputs"), name)(**fields)


@dataclass(frozen=True)
class Case:
    """One network.

    Attributes:
        name: what it does, in a few words.
        make: makes the model.
        inputs: ``inputs(batch)`` makes its positional inputs.
        refused: a part (regular expression) of the sentence that refuses it; empty where it must be recorded right.
        kept: a part of the sentence that says why nothing of it can be pruned; empty where something must be.
        modes: those that can be recorded.
        batches: sizes at which the recording must do as the model does; recorded is the first.
    """

    name: str
    make: Callable[[], nn.Module]
    inputs: Callable[[int], tuple[Any, ...]]
    refused: str = ""
    kept: str = ""
    modes: tuple[str, ...] = ("evaluation", "training")
    batches: tuple[int, ...] = (2, 3, 1)


def rows(batch: int) -> tuple[Tensor, ...]:
    """Vectors of eight numbers."""
    return (torch.randn(batch, 8),)


def images(batch: int) -> tuple[Tensor, ...]:
    """Small images of three channels."""
    return (torch.randn(batch, 3, 8, 8),)


class Written(nn.Module):
    """``a`` (8 -> 16) and ``b`` (16 -> 4) with what the user wrote between: ``between(model, hidden)``."""

    def __init__(self, between: Callable[[nn.Module, Tensor], Any], **parts: Any) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 4)
        self.between = between
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Any:
        return self.b(self.between(self, self.a(x)))


def net(between: Callable[[nn.Module, Tensor], Any], **parts: Any) -> Callable[[], nn.Module]:
    """Makes a `Written`; parts that are classes or functions are called for each model."""
    return lambda: Written(between, **{k: v() if callable(v) and not isinstance(v, nn.Module) else v for k, v in parts.items()})


def with_transformers(cases: list[Case]) -> list[Case]:
    """The cases, of which those that are named for its outputs import transformers first, or are left out where it is missing:
    it is no dependency of the tests."""

    def importing(case: Case) -> Case:
        def make() -> nn.Module:
            importlib.import_module("transformers.modeling_outputs")  # not while it is recorded
            return case.make()

        return replace(case, make=make)

    there = find_spec("transformers") is not None
    return [importing(c) if "ModelOutput" in c.name else c for c in cases if there or "ModelOutput" not in c.name]
