"""A batch as a call of a model, whatever that is: its inputs, by place or by name, and labels."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxprune import nested
from fxprune.errors import InputError
from fxprune.inputs.batches import LABELS
from fxprune.inputs.examples import own_copy

__all__ = ["Call", "Signature", "signature_of"]


@dataclass(frozen=True, eq=False)
class Call:
    """Inputs of one batch; `labels` may be whatever a loss or a metric takes, None if there are none.

    Attributes:
        args, named: by place and by name.
        images: samples of the batch.
    """

    args: tuple[Any, ...]
    named: dict[str, Any]
    labels: Any
    images: int

    def on(self, device: torch.device) -> Call:
        """The same on a device."""
        return Call(_to(self.args, device), _to(self.named, device), _to(self.labels, device), self.images)

    def of(self, model: nn.Module) -> Any:
        """What a model gives; it may write into its inputs, which are copies."""
        return model(*own_copy(self.args), **own_copy(self.named))


@dataclass(frozen=True)
class Signature:
    """The inputs that a model takes.

    Attributes:
        names: of the inputs, those without a default first.
        needed: how many have no default.
        open: takes any number by place, or any name.
    """

    names: tuple[str, ...]
    needed: int
    open: bool = False

    def read(self, batch: Any) -> Call:
        """Take a batch apart: a tensor; a sequence of inputs, labels last if there is one more than the model needs; or a
        mapping by the names of the inputs, with labels under ``label(s)``, ``target(s)`` or ``y``.

        Raises:
            InputError: the batch has another structure, or no samples.
        """
        labels: Any = None
        args: tuple[Any, ...] = ()
        named: dict[str, Any] = {}
        if isinstance(batch, Tensor):
            args = (batch,)
        elif isinstance(batch, Mapping):
            named, labels = self._by_name(batch)
        elif isinstance(batch, (list, tuple)):
            args, labels = self._by_place(batch)
        else:
            raise InputError(f"a batch must be a tensor, a sequence or a mapping of tensors, not {type(batch).__name__}")
        images = _samples((*args, *named.values()))
        if not images:
            raise InputError("a batch holds no images: every batch needs a tensor with at least one")
        return Call(tuple(args), named, labels, images)

    def _by_place(self, batch: Sequence[Any]) -> tuple[tuple[Any, ...], Any]:
        most = max(len(self.names), len(batch) if self.open else 0)
        if max(self.needed, 1) <= len(batch) - 1 <= most:
            return tuple(batch[:-1]), batch[-1]
        if self.needed <= len(batch) <= most:
            return tuple(batch), None
        raise InputError(f"a batch holds {len(batch)} inputs, but the model takes {self.needed} ({', '.join(self.names)})")

    def _by_name(self, batch: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
        needed = self.names[: self.needed]
        if missing := [name for name in needed if name not in batch]:
            raise InputError(f"a batch has no {missing[0]!r}, an input of the model: it has {', '.join(map(str, batch))}")
        key = next((k for k in LABELS if k in batch and k not in needed), None)
        named = {k: v for k, v in batch.items() if k != key and (self.open or k in self.names)}
        return named, None if key is None else batch[key]


def signature_of(*models: nn.Module) -> Signature:
    """The inputs of models that take the same: a recorded graph among them says it exactly.

    >>> signature_of(nn.Bilinear(2, 3, 4)).names
    ('input1', 'input2')
    """
    for model in models:
        if isinstance(model, fx.GraphModule):
            names = tuple(str(node.target) for node in model.graph.nodes if node.op == "placeholder")
            return Signature(names, len(names))
    kinds = inspect.Parameter
    given = inspect.signature(models[0].forward).parameters.values()
    plain = [p for p in given if p.kind not in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD)]
    needed = [p.name for p in plain if p.default is kinds.empty]
    rest = [p.name for p in plain if p.default is not kinds.empty]
    return Signature((*needed, *rest), len(needed), len(plain) < len(given))


def _samples(inputs: Sequence[Any]) -> int:
    """How many samples: of a list of tensors (detection) its length, else the first axis of the first tensor."""
    if inputs and isinstance(inputs[0], (list, tuple)) and inputs[0] and all(isinstance(v, Tensor) for v in inputs[0]):
        return len(inputs[0])
    first = next((v for v in nested.tensors(inputs) if v.dim()), None)
    return 0 if first is None else len(first)


def _to(value: Any, device: torch.device) -> Any:
    return nested.map(lambda v: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v, value)
