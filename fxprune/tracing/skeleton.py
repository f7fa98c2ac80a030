"""Copies of models and inputs on the meta device: shapes without memory; and what their parts are called."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxprune import nested
from fxprune.errors import TraceError, said
from fxprune.rebinding import rebind
from fxprune.tracing.labelling.label_mode import LabelMode

__all__ = ["Names", "Skeleton", "copy_with", "new_mode", "skeleton_of", "to_meta"]


class Names:
    """What the parts of a module are called, from one walk over it.

    Attributes:
        modules: every name -> module.
        module_names: ``id(module) ->`` its first name.
        tensors: first name -> parameter or buffer; parameters first.
        all_tensors: every name -> parameter or buffer.
        tensor_names: ``id(tensor) ->`` its first name.
    """

    def __init__(self, root: nn.Module) -> None:
        self.modules: dict[str, nn.Module] = {}
        self._visit(root, "")
        self.module_names: dict[int, str] = {}
        for name, module in self.modules.items():
            self.module_names.setdefault(id(module), name)
        self.all_tensors: dict[str, Tensor] = {}
        for table in ("_parameters", "_buffers"):
            for prefix, module in self.modules.items():
                for name, tensor in getattr(module, table).items():
                    if tensor is not None:
                        self.all_tensors[f"{prefix}.{name}" if prefix else name] = tensor
        self.tensor_names: dict[int, str] = {}
        for name, tensor in self.all_tensors.items():
            self.tensor_names.setdefault(id(tensor), name)
        self.tensors = {n: t for n, t in self.all_tensors.items() if self.tensor_names[id(t)] == n}

    def _visit(self, module: nn.Module, name: str) -> None:
        self.modules[name] = module
        for key, part in module._modules.items():
            if part is not None:
                self._visit(part, f"{name}.{key}" if name else key)


@dataclass(frozen=True, eq=False)
class Skeleton:
    """A model on the meta device, with the example inputs to run it on.

    Attributes:
        module: the copy of the model.
        origin: ``id(tensor of the copy) ->`` the model's tensor.
        args, named: example inputs on the meta device.
        held: ``(module of the copy, attribute)`` where tensors are plain values: no parameter, no buffer.
    """

    module: nn.Module
    origin: Mapping[int, Tensor]
    args: tuple[Any, ...]
    named: dict[str, Any]
    held: Sequence[tuple[nn.Module, str]] = ()

    @classmethod
    def of(cls, model: nn.Module, inputs: Sequence[Any], kwargs: Mapping[str, Any] | None) -> Skeleton:
        """The skeleton of a model, to be run on inputs of these shapes."""
        held: list[tuple[nn.Module, str]] = []
        module, origin = copy_with(model, _on_meta, held)
        return cls(module, origin, tuple(to_meta(tuple(inputs))), to_meta(dict(kwargs or {})), held)

    @cached_property
    def names(self) -> Names:
        """What its parts are called."""
        return Names(self.module)

    @property
    def device(self) -> str:
        """The kind of device that the model is on."""
        return next((t.device.type for t in self.origin.values()), "cpu")


def skeleton_of(model: nn.Module) -> tuple[nn.Module, dict[int, Tensor]]:
    """A copy of the model on the meta device, and ``id(copy) -> original`` for all its tensors."""
    return copy_with(model, _on_meta)


def copy_with(
    model: nn.Module, make: Callable[[Tensor], Tensor], held: list[tuple[nn.Module, str]] | None = None
) -> tuple[nn.Module, dict[int, Tensor]]:
    """A copy of the model with ``make(tensor)`` for each of its tensors, and ``id(copy) -> original`` for these.

    Args:
        held: gets the ``(module of the copy, attribute)`` where tensors are plain values.

    Raises:
        TraceError: the model holds what cannot be copied.
    """
    memo: dict[int, Any] = {}
    origin: dict[int, Tensor] = {}
    met, plain = 0, []

    def visit(value: Any) -> None:
        nonlocal met
        if isinstance(value, Tensor):
            met += 1
            if id(value) not in memo:
                memo[id(value)] = made = make(value)
                origin[id(made)] = value
        elif isinstance(value, (list, tuple)):
            for item in value:
                visit(item)
        elif isinstance(value, dict):
            for item in value.values():
                visit(item)

    for module in model.modules():
        for key, value in module.__dict__.items():
            empty = type(value) in _DICTS and not value
            if not empty and key != "_modules" and type(value) not in _PLAIN:
                before = met
                visit(value)
                if met != before and key not in _INTERNAL:
                    plain.append((module, key))
    try:
        copied = _copied(model, memo)
        rebind(copied.modules(), memo)
        if held is not None:
            held += [(memo[id(module)], key) for module, key in plain]
        return copied, origin
    except Exception as error:
        raise TraceError(f"the model cannot be copied ({type(error).__name__}: {said(error)})") from error


_ATOMIC: tuple[type, ...] = (bool, int, float, complex, str, bytes, type(None), type, FunctionType)
_PLAIN = frozenset(_ATOMIC)
_DICTS = (dict, OrderedDict)
_CONTAINERS = (dict, list, set)
_INTERNAL = frozenset(nn.Module().__dict__)
_OWN_WAY = ("__deepcopy__", "__slots__", "__getnewargs__", "__getnewargs_ex__")


def _copied(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """`copy.deepcopy` of a module, several times as fast: most of what modules hold is atomic or an empty dict.

    Args:
        memo: as of `copy.deepcopy`; all tensors are in it.
    """
    made: nn.Module
    if id(module) in memo:
        made = memo[id(module)]
        return made
    kind: Any = type(module)
    if isinstance(module, fx.GraphModule) and kind.__deepcopy__ is fx.GraphModule.__deepcopy__:
        return _same_code(module, memo)
    state = None if _copied_its_own_way(kind) else module.__getstate__() if hasattr(module, "__getstate__") else module.__dict__
    if type(state) is not dict:
        made = copy.deepcopy(module, memo)
        return made
    made = memo[id(module)] = kind.__new__(kind)
    copied: dict[str, Any] = {}
    for key, value in state.items():
        if type(value) in _PLAIN or isinstance(value, _ATOMIC):
            copied[key] = value
        elif type(value) in (*_DICTS, set) and not value:
            copied[key] = type(value)()
            if key not in _INTERNAL:  # a closure may know it, too
                memo[id(value)] = copied[key]
        elif type(value) is tuple and all(type(item) in _PLAIN for item in value):
            copied[key] = value
        elif key == "_modules":
            copied[key] = type(value)((k, None if m is None else _copied(m, memo)) for k, m in value.items())
        else:
            copied[key] = copy.deepcopy(value, memo)
    if kind.__setstate__ is nn.Module.__setstate__:  # which adds what modules of older versions lack
        made.__dict__.update(copied)
    else:
        made.__setstate__(copied)
    return made


def _same_code(module: fx.GraphModule, memo: dict[int, Any]) -> fx.GraphModule:
    """A copy of a GraphModule that has its class, and so its code, and its graph, where `copy.deepcopy` compiles anew.

    What is copied here is run, and never rewritten.
    """
    made: fx.GraphModule = object.__new__(type(module))  # GraphModule's own makes another class
    memo[id(module)] = made
    memo[id(module._graph)] = module._graph
    for key, value in module.__dict__.items():
        if key == "_modules":
            made.__dict__[key] = {k: None if m is None else _copied(m, memo) for k, m in value.items()}
        elif key == "meta":  # plans and reports as they are
            made.__dict__[key] = {k: copy.deepcopy(v, memo) if isinstance(v, _CONTAINERS) else v for k, v in value.items()}
        else:
            made.__dict__[key] = copy.deepcopy(value, memo)
    return made


@lru_cache(maxsize=1024)
def _copied_its_own_way(kind: Any) -> bool:
    """Whether a class says how its modules are copied."""
    reduces = kind.__reduce_ex__ is not object.__reduce_ex__ or kind.__reduce__ is not object.__reduce__
    return reduces or any(hasattr(kind, name) for name in _OWN_WAY)


def _on_meta(tensor: Tensor) -> Tensor:
    if type(tensor) in (Tensor, nn.Parameter) and tensor.is_contiguous():  # much faster than to ask for the same strides
        meta = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
    else:
        meta = torch.empty_like(tensor.detach(), device="meta")
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(meta, requires_grad=tensor.requires_grad)
    return meta


def new_mode(skeleton: Skeleton) -> LabelMode:
    """A mode in which every parameter and buffer has fresh labels; integer buffers are known constants, and whole."""
    mode = LabelMode()
    for tensor in skeleton.names.tensors.values():
        if tensor.is_floating_point() or tensor.is_complex():
            mode.label(tensor, [mode.store.fresh(int(size)) for size in tensor.shape])
        source = skeleton.origin.get(id(tensor))
        if source is not None and not source.is_floating_point() and not source.is_meta and source.dim():
            mode.set_known(tensor, source.detach().cpu())
    return mode


def to_meta(value: Any) -> Any:
    """Nested inputs with every tensor on the meta device."""
    return nested.map(lambda v: torch.empty_like(v.detach(), device="meta") if isinstance(v, Tensor) else v, value)
