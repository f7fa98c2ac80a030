"""Moves of tensors to a device that the model's code names: on the meta device, where all values are, they go nowhere."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fxprune.errors import TraceError

__all__ = ["without_move"]

_META = torch.device("meta")
_MOVES = frozenset({"cpu", "cuda", "to", "type"})


def without_move(target: Any, args: Any, kwargs: dict[str, Any], device: str) -> tuple[Any, Any, dict[str, Any]]:
    """A call on a tensor as the meta device runs it: ``x.cpu()``, ``x.to("cpu")``, ``x.type("torch.FloatTensor")``.

    Args:
        target: a function, or the name of a method.
        args, kwargs: its arguments on the meta device, of which the first may be the tensor.
        device: the kind of device that the model is on.

    Returns:
        The target and its arguments, the same ones where nothing moves.

    Raises:
        TraceError: the tensor goes to another kind of device, and what the code asks of it there cannot be answered.
    """
    name = target if type(target) is str else getattr(target, "__name__", "")
    named = kwargs.get("device")
    if (named is None and name not in _MOVES) or not args or not isinstance(args[0], Tensor):
        return target, args, kwargs
    if type(target) is not str and target not in (getattr(Tensor, name, None), getattr(torch, name, None)):
        return target, args, kwargs  # a function of the user's, of that name
    if name in ("cpu", "cuda"):
        _check(name, device)
        return "to", (args[0], _META), {key: value for key, value in kwargs.items() if key == "memory_format"}
    if name == "to" and len(args) > 1 and isinstance(args[1], (str, int, torch.device)):
        return target, (args[0], _here(args[1], device), *args[2:]), kwargs
    if name == "type" and len(args) > 1 and isinstance(args[1], str):
        found = torch.empty(0, device=device).type(args[1])
        _check(found.device.type, device)
        return target, (args[0], found.dtype), kwargs
    return target, args, kwargs if named is None else {**kwargs, "device": _here(named, device)}


def _here(given: Any, device: str) -> torch.device:
    kind = torch.device(given).type
    if kind != "meta":  # which is what the code got for x.device
        _check(kind, device)
    return _META


def _check(kind: str, device: str) -> None:
    if kind != device:
        raise TraceError(
            f"a tensor is moved to {kind!r}, where the model is on {device!r}: move it outside the model, or prune the other "
            "parts with submodules=[...]"
        )
