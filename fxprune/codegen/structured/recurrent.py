"""Recurrent layers as one operation each: PyTorch takes them apart into some for each step of time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["WholeLayers"]

_LAYERS = (torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu)
_DEVICES = ("cpu", "cuda")


class WholeLayers(TorchFunctionMode):
    """Inside, calls of such layers do what `note` says.

    Args:
        note: gets the name of the function, its arguments, whether it draws random numbers, and what makes tensors of the
            shapes that it gives; gives these.
    """

    def __init__(self, note: Callable[[str, Sequence[Any], bool, Callable[[], tuple[Tensor, ...]]], Any]) -> None:
        super().__init__()
        self.note = note

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in _LAYERS or kwargs or not _fits(args):
            return func(*args, **(kwargs or {}))
        dropout, training = args[5:7]
        return self.note(func.__name__, args, bool(dropout and training), lambda: _given(args))


def _given(args: Sequence[Any]) -> tuple[Tensor, ...]:
    (x, states), (both, batch_first) = args[:2], args[7:]
    states = states if isinstance(states, (list, tuple)) else [states]
    batch, steps = x.shape[:2] if batch_first else x.shape[1::-1]
    made = x.new_empty(steps, batch, states[0].shape[2] * (2 if both else 1))
    return (made.transpose(0, 1) if batch_first else made, *map(torch.empty_like, states))


def _fits(args: Sequence[Any]) -> bool:
    """Whether a layer is called with sizes that go together, and with tensors as they are: not packed, not cast."""
    if len(args) != 9 or not isinstance(args[2], (list, tuple)) or any(map(torch.is_autocast_enabled, _DEVICES)):
        return False
    x, states, weights = args[:3]
    states = states if isinstance(states, (list, tuple)) else [states]
    known = [x, *states, *weights]
    if any(not isinstance(t, Tensor) or not t.is_meta or t.dtype != x.dtype for t in known):
        return False
    return bool(x.dim() == 3 and states[0].dim() == 3 and weights[0].shape[1] == x.shape[2])
