"""Whether a generated model does what the slim one does: the same operations on the same tensors, in both modes.

Both run on the meta device, on the shapes of the inputs with which the model was recorded, while every operation that reaches
PyTorch's dispatcher is written down with its arguments: numbers as they are, tensors by where they come from (a name in the
model, an input, the result of an earlier operation).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fxprune import nested
from fxprune.codegen.structured.simplify import Whole
from fxprune.tracing.skeleton import copy_with

__all__ = ["difference"]


def difference(slim: fx.GraphModule, made: nn.Module) -> str:
    """Where a model on the meta device departs from the slim one, in words; empty if nowhere.

    Args:
        made: its state has the names of that of `slim`.
    """
    own = type(slim).forward
    held = Whole(slim)
    del held.__dict__["graph"], held.__dict__["meta"]
    other, _ = copy_with(held, lambda t: _on_meta(t))
    example = slim.meta["example"]
    flags = any(str(node.target).rpartition(".")[2] == "training" for node in slim.graph.nodes) or slim.meta.get("modes")
    for training in (True, False) if flags else (True,):  # layers are the same whatever their mode
        _set_mode(other, training, slim.meta.get("modes", {}))
        made.train(training)
        expected = _log(other, example, lambda *args, **named: own(other, *args, **named))
        found = _log(made, example, made)
        for number, (a, b) in enumerate(zip(expected, found, strict=False)):
            if a != b:
                return f"in {'training' if training else 'evaluation'}, step {number} is {b:.120}, not {a:.120}"
        if len(expected) != len(found):
            return f"it takes {len(found)} steps, not {len(expected)}"
    return ""


def _on_meta(tensor: Tensor) -> Tensor:
    made = torch.empty_like(tensor.detach(), device="meta")
    return nn.Parameter(made, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else made


def _set_mode(model: nn.Module, training: bool, modes: Mapping[bool, Mapping[str, bool]]) -> None:
    model.train(training)
    for name, flag in modes.get(training, {}).items():
        model.get_submodule(name).training = flag


def _log(model: nn.Module, example: Sequence[Any], forward: Callable[..., Any]) -> list[str]:
    """The operations of one run, one text each, and its outputs; or how it fails."""
    args, named = nested.map(lambda v: v.clone() if isinstance(v, Tensor) else v, example)
    log = _Log()
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        log.know(tensor, name)
    for number, tensor in enumerate(nested.tensors((args, named))):
        log.know(tensor, f"input {number}")
    try:
        with torch.enable_grad(), log:
            outputs = forward(*args, **named)
    except Exception as error:
        return [*log.lines, f"{type(error).__name__}: {error}"]
    return [*log.lines, f"outputs {log.shown(list(nested.tensors(outputs)))}"]


class _Log(TorchDispatchMode):
    """Writes down operations. It keeps all tensors, so that their ids stay their own."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.names: dict[int, str] = {}
        self.met: list[Tensor] = []

    def know(self, tensor: Tensor, name: str) -> None:
        """Call a tensor by a name from now on."""
        if id(tensor) not in self.names:
            self.names[id(tensor)] = name
            self.met.append(tensor)

    def shown(self, value: Any) -> str:
        """Arguments as text."""
        if isinstance(value, Tensor):
            return self.names.get(id(value), f"a tensor of shape {tuple(value.shape)}")
        if isinstance(value, (list, tuple)):
            return f"({', '.join(map(self.shown, value))})"
        if isinstance(value, dict):
            return f"{{{', '.join(f'{key}: {self.shown(item)}' for key, item in value.items())}}}"
        return repr(value)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        state = f"{torch.is_grad_enabled():d}{torch.is_inference_mode_enabled():d}"
        result = _quick(func, args)
        if result is None:
            result = func(*args, **(kwargs or {}))
        self.lines.append(f"{func} {state} {self.shown(args)} {self.shown(kwargs or {})}")
        for number, tensor in enumerate(nested.tensors(result)):
            self.know(tensor, f"{len(self.lines)}.{number}")
        return result


_LIKE_FIRST = frozenset("relu gelu silu hardswish hardsigmoid sigmoid tanh hardtanh leaky_relu elu neg exp _softmax".split())
_PAIRS = frozenset("add sub mul div".split())


def _quick(func: Any, args: Sequence[Any]) -> Any:
    """What an operation gives on the meta device, where that is plain: many have no kernel there that is not slow Python."""
    if func.namespace != "aten" or not args or not isinstance(args[0], Tensor):
        return None
    name, first = func._schema.name.removeprefix("aten::"), args[0]
    if not first.is_floating_point() or not first.is_meta:
        return None
    if name in _LIKE_FIRST:
        return torch.empty_like(first)
    if name.removesuffix("_") in _PAIRS:
        other = args[1]
        plain = not isinstance(other, Tensor) or (other.shape == first.shape and other.dtype == first.dtype)
        if plain and not isinstance(other, complex) and (not isinstance(other, Tensor) or other.stride() == first.stride()):
            return first if name.endswith("_") else torch.empty_like(first)
    if name == "native_batch_norm":
        size = first.shape[1] if args[5] else 0
        return torch.empty_like(first), first.new_empty(size), first.new_empty(size)
    return None
