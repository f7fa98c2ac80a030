"""With what a submodule is called: one call of its forward, in the form that a graph and a plan can hold."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fxprune import nested
from fxprune.errors import InputError

__all__ = ["Argument", "ModuleCall", "Recording", "arguments", "call_of", "form_of", "holds_tensors"]

_PLAIN = (bool, int, float, str, type(None))


@dataclass(frozen=True, eq=False)
class ModuleCall:
    """One call of a module's forward, defaults included.

    Attributes:
        args, kwargs: tensors are on the meta device, in lists, tuples and dicts as they were given; the rest is plain
            constants (numbers, text, None).
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Recording:
    """What is known of the submodules of a model that are pruned. Copies of what holds it add to the same one.

    Attributes:
        calls: name -> with what the submodule is called, in the order of the model.
        written: attributes that modules inside set or delete while they run, by full name. Each run of the submodules adds
            its own, and they are traced before it is asked for: so it need not be in a plan.
    """

    calls: dict[str, ModuleCall]
    written: set[str] = field(default_factory=set)

    def __deepcopy__(self, memo: dict[int, Any]) -> Recording:
        return self


@dataclass(frozen=True, eq=False)
class Argument:
    """One argument of a call: its name in the signature of forward, its value, and the default if that is the value."""

    name: str
    value: Any
    default: tuple[Any, ...]


def arguments(module: nn.Module, call: ModuleCall) -> list[Argument]:
    """The arguments of a call by the names that forward gives them, in its order."""
    found, rest = [], list(call.args)
    for p in inspect.signature(module.forward).parameters.values():
        default = (p.default,) if type(p.default) in _PLAIN else ()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD):
            found.append(Argument(p.name, rest.pop(0), default))
        elif p.kind is p.VAR_POSITIONAL:
            found += [Argument(f"{p.name}_{i}", value, ()) for i, value in enumerate(rest)]
        elif p.kind is p.KEYWORD_ONLY:
            found.append(Argument(p.name, call.kwargs[p.name], default))
    known = {a.name for a in found}
    return found + [Argument(k, v, ()) for k, v in call.kwargs.items() if k not in known]


def holds_tensors(value: Any) -> bool:
    """Whether an argument is, or contains, a tensor."""
    return bool(nested.tensors(value))


def call_of(name: str, module: nn.Module, args: Any, kwargs: Any) -> ModuleCall:
    """The call of `module`, known as `name`, with these arguments. An axis of size 0 (no object was detected) becomes one
    of size 2.

    Raises:
        InputError: a graph cannot take an argument, or there is no tensor among them.
    """
    bound = inspect.signature(module.forward).bind(*args, **kwargs)
    bound.apply_defaults()
    call = ModuleCall(_recorded(bound.args, name), _recorded(bound.kwargs, name))
    if not holds_tensors((call.args, call.kwargs)):
        raise InputError(f"submodule {name!r} is called without any tensor, so it has no graph: name modules that take tensors")
    return call


def _recorded(value: Any, name: str) -> Any:
    if isinstance(value, Tensor):
        return torch.empty([s or 2 for s in value.shape], dtype=value.dtype, device="meta")
    if type(value) in _PLAIN:
        return value
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_recorded(v, name) for v in value))
    if type(value) in (list, tuple):
        return type(value)(_recorded(v, name) for v in value)
    if type(value) in (dict, OrderedDict):
        return type(value)((k, _recorded(v, name)) for k, v in value.items())
    raise InputError(
        f"submodule {name!r} is called with an object of type {type(value).__name__}, which a graph cannot take: "
        "name modules inside it that take tensors"
    )


def form_of(call: ModuleCall) -> Any:
    """What two calls of one module must have in common: structure, dtypes, numbers of axes, and constants."""
    return _form((call.args, call.kwargs))


def _form(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.dtype, value.dim()
    if isinstance(value, Mapping):
        return [(k, _form(v)) for k, v in value.items()]
    return [_form(v) for v in value] if isinstance(value, (list, tuple)) else value
