"""With what the modules of a model are called: recorded by hooks in one run of the whole model."""

from __future__ import annotations

import copy
import inspect
import time
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fxprune import nested
from fxprune.errors import InputError, PruneError
from fxprune.inputs.examples import random_like
from fxprune.tracing.skeleton import skeleton_of, to_meta

__all__ = ["Argument", "Call", "OutOfTime", "arguments", "holds_tensors", "record", "run_real", "watch"]

_PLAIN = (bool, int, float, str, type(None))


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a module's forward, defaults included.

    Attributes:
        args, kwargs: tensors are on the meta device, in lists, tuples and dicts as they were given; the rest is plain
            constants (numbers, text, None).
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Argument:
    """One argument of a call: its name in the signature of forward, its value, and the default if that is the value."""

    name: str
    value: Any
    default: tuple[Any, ...]


class OutOfTime(Exception):
    """A run took longer than it was given."""


def record(model: nn.Module, args: Sequence[Any], named: Mapping[str, Any], names: Collection[str]) -> dict[str, Call]:
    """The first call of each of the modules `names` in one forward of `model` in evaluation mode.

    The model runs on the meta device; where it needs values to go on before it has called all of them, a copy of it
    runs on random values of those shapes, or on the given ones. An axis of size 0 (no object was detected) is recorded as
    one of size 2.

    Raises:
        InputError: the model fails on the inputs; a module is never called, or is called with what a graph cannot take,
            in several ways, or in parts, past its own forward.
    """
    skeleton, _ = skeleton_of(model)
    calls = _listen(skeleton, names)
    try:
        with torch.no_grad(), torch.device("meta"):
            skeleton.eval()(*to_meta(tuple(args)), **to_meta(dict(named)))
    except PruneError:
        raise
    except Exception:  # it reads values: what it has called so far is known
        pass
    if any(name not in calls for name in names):
        real = copy.deepcopy(model)
        calls = _listen(real, names)
        try:
            run_real(real, args, named)
        except PruneError:
            raise
        except Exception as error:
            raise InputError(f"{type(model).__name__} fails on the example inputs: {type(error).__name__}: {error}") from error
    for name in names:
        if name not in calls:
            hint = "; name the modules inside it that are" if any(model.get_submodule(name).children()) else ""
            raise InputError(f"submodule {name!r} is never called when {type(model).__name__} runs on the example inputs{hint}")
    return {name: calls[name] for name in names}


def run_real(model: nn.Module, args: Sequence[Any], named: Mapping[str, Any]) -> Any:
    """One forward in evaluation mode: on the given inputs, or on random values where they are on the meta device."""
    first = next((p for p in (*model.parameters(), *model.buffers()) if p.is_floating_point()), None)
    device = torch.device("cpu") if first is None else first.device

    def real(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return random_like(value, device, None) if value.is_meta else value.detach().to(device, copy=True)

    with torch.no_grad():
        return model.eval()(*nested.map(real, tuple(args)), **nested.map(real, dict(named)))


def arguments(module: nn.Module, call: Call) -> list[Argument]:
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


# -- hooks -----------------------------------------------------------------------------------------------------------------


def _listen(model: nn.Module, names: Collection[str]) -> dict[str, Call]:
    """Have `model` record the first call of each of the modules `names`; the result fills while it runs."""
    calls: dict[str, Call] = {}
    open_calls: list[nn.Module] = []
    owners: dict[int, list[tuple[str, nn.Module]]] = {}
    labels: dict[int, str] = {}

    def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
        open_calls.append(module)
        name = labels[id(module)]
        call = _call_of(name, module, args, kwargs)
        if name not in calls:
            calls[name] = call
        elif _form((call.args, call.kwargs)) != _form((calls[name].args, calls[name].kwargs)):
            raise InputError(
                f"submodule {name!r} is called in several ways (other types or options of inputs): name parts of it"
            )

    def leave(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        open_calls.pop()

    def inside(module: nn.Module, args: Any, kwargs: Any) -> None:
        name, _ = owners[id(module)][0]
        if not any(owner in open_calls for _, owner in owners[id(module)]):
            raise InputError(
                f"parts of submodule {name!r} run outside of its own forward, which one graph cannot stand for: "
                "name parts of it, or the module that holds it"
            )

    for name in names:
        owner = model.get_submodule(name)
        labels[id(owner)] = name
        for part in owner.modules():
            owners.setdefault(id(part), []).append((name, owner))
    for part in model.modules():
        if id(part) in labels:
            part.register_forward_pre_hook(enter, with_kwargs=True, prepend=True)
            part.register_forward_hook(leave, with_kwargs=True, always_call=True)
        elif id(part) in owners:
            part.register_forward_pre_hook(inside, with_kwargs=True)
    return calls


def watch(model: nn.Module, seconds: float) -> dict[str, Call]:
    """Have `model` record the first call of each of its modules that returns; the result fills while it runs.

    Calls that a graph cannot take are left out. A run that takes longer than `seconds` ends with `OutOfTime`.
    """
    calls: dict[str, Call] = {}
    names = {id(m): name for name, m in model.named_modules() if name}
    end = time.monotonic() + seconds
    pending: list[tuple[int, Call | None]] = []

    def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
        if time.monotonic() > end:
            raise OutOfTime
        name = names[id(module)]
        try:
            pending.append((id(module), None if name in calls else _call_of(name, module, args, kwargs)))
        except PruneError:
            pending.append((id(module), None))

    def leave(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        _, call = pending.pop()
        if call is not None:
            calls.setdefault(names[id(module)], call)

    for part in model.modules():
        if id(part) in names:
            part.register_forward_pre_hook(enter, with_kwargs=True)
            part.register_forward_hook(leave, with_kwargs=True)
    return calls


def _call_of(name: str, module: nn.Module, args: Any, kwargs: Any) -> Call:
    bound = inspect.signature(module.forward).bind(*args, **kwargs)
    bound.apply_defaults()
    call = Call(_recorded(bound.args, name), _recorded(bound.kwargs, name))
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


def _form(value: Any) -> Any:
    """What two calls of one module must have in common: structure, dtypes, numbers of axes, and constants."""
    if isinstance(value, Tensor):
        return value.dtype, value.dim()
    if isinstance(value, Mapping):
        return [(k, _form(v)) for k, v in value.items()]
    return [_form(v) for v in value] if isinstance(value, (list, tuple)) else value
