"""Real values of the tensors that are constants of the model: indices and masks say which channel goes where."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fxprune import nested

__all__ = ["Constants", "is_small_factory"]

# Tensors are computed for real while they have at most so many entries.
_INTEGERS = 1 << 22
_FLOATS = 1 << 14
_FACTORIES = frozenset(
    f"aten::{name}" for name in "arange zeros ones full linspace eye scalar_tensor tril_indices triu_indices".split()
)


class Constants:
    """Tensors of a meta run -> their real values, where these do not depend on the model's inputs.

    Invariant: real tensors share memory where those on the meta device do, so that writes into one are seen in all.
    """

    def __init__(self) -> None:
        # The tensor is kept with its value, so that its id stays its own.
        self._values: dict[int, tuple[Tensor, Tensor]] = {}
        self._lent: set[int] = set()  # the memory of the model's own tensors, into which nothing is written

    def get(self, tensor: Tensor) -> Tensor | None:
        """The real value of a tensor, or None."""
        if tensor.device.type != "meta":
            return tensor
        entry = self._values.get(id(tensor))
        return None if entry is None else entry[1]

    def set(self, tensor: Tensor, value: Tensor) -> None:
        """Say what a tensor is."""
        self._values[id(tensor)] = (tensor, value)

    def lend(self, tensor: Tensor, value: Tensor) -> None:
        """Say that a tensor is one of the model's own, which stays as it is."""
        self._lent.add(value.untyped_storage().data_ptr())
        self.set(tensor, value)

    def compute(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The operator's result on real values, where all its tensors are constants; else None."""
        inputs = nested.tensors((args, kwargs))
        swap: dict[int, Tensor] = {}
        for tensor in inputs:
            value = self.get(tensor)
            if value is None:
                self._forget(func, inputs)
                return None
            swap[id(tensor)] = value
        if func._schema.is_mutable and any(v.untyped_storage().data_ptr() in self._lent for v in swap.values()):
            self._forget(func, inputs)
            return None
        if not inputs and not is_small_factory(func, args, kwargs):
            return None
        if torch.Tag.nondeterministic_seeded in func.tags:
            return None

        def real(value: Any) -> Any:
            if isinstance(value, Tensor):
                return swap[id(value)]
            return torch.device("cpu") if isinstance(value, torch.device) else value

        args, kwargs = nested.map(real, (args, kwargs))
        return func(*args, **kwargs)

    def keep(self, out: Any, value: Any) -> None:
        """Say what the results of an operator are, of those that are small."""
        for tensor, real in zip(nested.tensors(out), nested.tensors(value), strict=True):
            if tensor.device.type != "meta":
                continue
            limit = _FLOATS if real.is_floating_point() or real.is_complex() else _INTEGERS
            if real.numel() <= limit and tensor.shape == real.shape:
                self.set(tensor, real)
            else:
                self._values.pop(id(tensor), None)

    def _forget(self, func: Any, inputs: list[Tensor]) -> None:
        """Where a value that is not known is written into constants, neither they nor what shares their memory is known."""
        if not self._values or not func._schema.is_mutable:
            return
        for tensor in inputs:
            entry = self._values.get(id(tensor))
            if entry is None:
                continue
            storage = entry[1].untyped_storage().data_ptr()
            shared = [k for k, (_, v) in self._values.items() if v.untyped_storage().data_ptr() == storage]
            for key in shared:
                del self._values[key]


def is_small_factory(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether an operator makes a tensor that is no large one of plain arguments alone."""
    return func._schema.name in _FACTORIES and _small(args, kwargs)


def _small(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a factory's arguments name no large size."""
    size = 1
    for n in nested.leaves((args, kwargs.get("size", ()))):
        if type(n) is int:
            size *= max(abs(n), 1)
    return size <= _INTEGERS
