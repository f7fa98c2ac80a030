"""Batches of data: taken apart into a model's inputs and labels, or made up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxprune import nested
from fxprune.errors import InputError
from fxprune.inputs.examples import random_like, settle_inputs

__all__ = ["LABELS", "Batch", "Names", "class_labels", "inputs_of", "random_batches", "read_batch"]

LABELS = ("label", "labels", "target", "targets", "y")  # names of labels in a batch that is a mapping
_RANDOM_BATCHES = 8

Names = Mapping[str, tuple[Any, ...]] | Sequence[str]  # of inputs, perhaps with their defaults


@dataclass(eq=False)
class Batch:
    """Inputs in the order of the graph's placeholders, on the model's device; `labels` may be whatever a loss takes."""

    inputs: tuple[Any, ...]
    labels: Any
    images: int


def inputs_of(graph: fx.Graph) -> dict[str, tuple[Any, ...]]:
    """The inputs of a graph: their names, and their defaults if they have one."""
    return {str(n.target): n.args for n in graph.nodes if n.op == "placeholder"}


def read_batch(batch: Any, names: Names, device: torch.device) -> Batch:
    """Take a batch apart: a tensor; a sequence of the model's inputs, labels last if there is one more; or a mapping by
    the `names` of the inputs, with labels under ``label(s)``, ``target(s)`` or ``y``. What is not there has its default, as
    labels have that the model would take, too.

    Raises:
        InputError: the batch has another structure.
    """
    labels = None
    known = names if isinstance(names, Mapping) else dict.fromkeys(names, ())
    if isinstance(batch, Tensor):
        inputs: list[Any] = [batch]
    elif isinstance(batch, Mapping):
        missing = [n for n, default in known.items() if n not in batch and not default]
        if missing:
            raise InputError(f"a batch has no {missing[0]!r}, an input of the model: it has {', '.join(map(str, batch))}")
        left = {k for k in LABELS if known.get(k, (None,)) == (None,)}
        labels = next((batch[k] for k in LABELS if k in batch and k in left), None)
        inputs = [batch[n] if n in batch and n not in left else default[0] for n, default in known.items()]
    elif isinstance(batch, (list, tuple)):
        inputs = list(batch)
        if len(inputs) == len(names) + 1:
            labels = inputs.pop()
    else:
        raise InputError(f"a batch must be a tensor, a sequence or a mapping of tensors, not {type(batch).__name__}")
    if len(inputs) == sum(not default for default in known.values()):
        given = iter(inputs)
        inputs = [default[0] if default else next(given) for default in known.values()]
    if len(inputs) != len(names):
        raise InputError(f"a batch holds {len(inputs)} inputs, but the model takes {len(names)} ({', '.join(names)})")
    first = next((v for v in nested.tensors(inputs) if v.dim()), None)
    if first is None or not len(first):
        raise InputError("a batch holds no images: every batch needs a tensor with at least one")
    return Batch(tuple(_to(v, device) for v in inputs), _to(labels, device), len(first))


def class_labels(batch: Batch, classes: int) -> Tensor:
    """Labels as int64 ``[images]`` in ``[0, classes)``; more classes than that are folded onto them.

    Raises:
        InputError: there are no labels, or they are not one whole number an image.
    """
    labels = batch.labels
    if labels is None:
        raise InputError("the criterion needs labels: batches must be pairs of inputs and labels")
    if not isinstance(labels, Tensor):
        labels = torch.as_tensor(labels)
    if labels.shape != (batch.images,) or labels.is_floating_point() or (labels.numel() and int(labels.min()) < 0):
        raise InputError(f"labels must be one class number an image, not {labels.dtype} of shape {tuple(labels.shape)}")
    return labels.long() % classes


def random_batches(model: nn.Module, inputs: tuple[Tensor, ...] | None, seed: int = 0) -> list[tuple[Any, ...]]:
    """Eight batches of random values in the shape of the example inputs; random labels where the output is ``[n, classes]``."""
    args, named = settle_inputs(model, inputs)
    first = next(iter(model.parameters()), torch.empty(0))
    batches = [random_like((*args, *named.values()), first.device, None, seed + i) for i in range(_RANDOM_BATCHES)]
    with torch.no_grad():
        output = model(*batches[0])
    if not isinstance(output, Tensor) or output.dim() != 2:
        return batches
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(output.shape[1], (_RANDOM_BATCHES, len(output)), generator=generator)
    return [(*batch, y) for batch, y in zip(batches, labels, strict=True)]


def _to(value: Any, device: torch.device) -> Any:
    return nested.map(lambda v: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v, value)
