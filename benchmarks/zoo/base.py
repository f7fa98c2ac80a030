"""What an entry of a library's table is, and the inputs that many share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from measure import tensors
from torch import Tensor, nn

__all__ = ["Entry", "Inputs", "fused", "ids", "images", "ran", "trained"]

Inputs = tuple[Any, ...] | dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """One model of a library: a small configuration of the real class, with random weights.

    Attributes:
        name: of the model.
        make: makes it.
        inputs: ``inputs(batch)`` makes what its forward takes, by position or by name.
        outputs: names of modules that make its outputs, which Torch-Pruning is told to leave alone (as its examples do).
        onnx: whether the slim model is exported and run by ONNX Runtime too.
    """

    name: str
    make: Callable[[], nn.Module]
    inputs: Callable[[int], Inputs]
    outputs: tuple[str, ...] = ()
    onnx: bool = False


def images(size: int, channels: int = 3) -> Callable[[int], Inputs]:
    """Square images."""
    return lambda batch: (torch.randn(batch, channels, size, size),)


def ids(length: int = 12, vocabulary: int = 96) -> Callable[[int], Inputs]:
    """Token ids, as the language models take them by name."""
    return lambda batch: {"input_ids": torch.randint(3, vocabulary, (batch, length))}


def named(inputs: Mapping[str, Callable[[int], Tensor]]) -> Callable[[int], Inputs]:
    """Inputs by name, each made for a batch."""
    return lambda batch: {name: make(batch) for name, make in inputs.items()}


def ran(entry: Entry) -> Entry:
    """The same model after it has been run once, and may keep something of that run."""

    def make() -> nn.Module:
        model = entry.make().eval()
        with torch.no_grad():
            call(model, entry.inputs(1))
        return model

    return Entry(f"{entry.name} run before", make, entry.inputs, entry.outputs, entry.onnx)


def trained(entry: Entry) -> Entry:
    """The same model after a step of training."""

    def make() -> nn.Module:
        model = entry.make().train()
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
        total = sum(t.float().square().mean() for t in tensors(call(model, entry.inputs(2))) if t.requires_grad)
        assert isinstance(total, Tensor)
        total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        return model

    return Entry(f"{entry.name} trained before", make, entry.inputs, entry.outputs, entry.onnx)


def fused(entry: Entry) -> Entry:
    """The same model after its library fused convolutions with their norms."""
    return Entry(f"{entry.name} fused before", lambda: entry.make().eval().fuse(), entry.inputs, entry.outputs, entry.onnx)  # type: ignore[operator]


def call(model: nn.Module, inputs: Inputs) -> Any:
    """Run a model on inputs by position or by name."""
    return model(**inputs) if isinstance(inputs, dict) else model(*inputs)
