"""Numbers of channels that code reads where it makes a layer of its module: ``self.fc = nn.Linear(self.num_features, n)``.

A method that replaces a head runs such a line again, so the number has to be the size that the layer has now. Of attributes
with one value, the line says which is which; it is read, and nothing is run.
"""

from __future__ import annotations

import ast
import functools
import inspect
from collections.abc import Iterator
from types import FunctionType
from typing import Any

from torch import nn

from fxprune.shrinking.sized_code import tree_of
from fxprune.shrinking.slots import Slot

__all__ = ["numbers_of_layers"]

Line = tuple[str, ast.expr, ast.Call]  # how the method calls its module, the place of the layer, and what makes it


def numbers_of_layers(part: nn.Module, made: nn.Module) -> dict[Slot, int]:
    """Numbers of a module that its code makes layers from -> the sizes of these layers in a copy; where layers that are made
    from one number have several sizes there, it is not among them.

    Args:
        made: the copy of `part`, whose layers have other sizes.
    """
    found: dict[Slot, set[int]] = {}
    kind: Any = type(part)
    for own, place, call in _lines(kind) if part._modules else ():
        layer, now = _at(place, own, part), _at(place, own, made)
        if not _has_sizes(layer) or type(now) is not type(layer):
            continue
        for name, argument in _arguments(call, type(layer)):
            slot = _slot(argument, own, part)
            old, new = layer.__dict__.get(name), now.__dict__.get(name)
            if slot is not None and type(old) is int and type(new) is int and slot.get(part) == old:
                found.setdefault(slot, set()).add(new)
    return {slot: next(iter(news)) for slot, news in found.items() if len(news) == 1}


def _has_sizes(layer: Any) -> bool:
    """Whether it is a layer of torch.nn: what it says of its sizes is what its tensors have, in the copy, too."""
    bases = type(layer).__mro__[: type(layer).__mro__.index(nn.Module)] if isinstance(layer, nn.Module) else ()
    return any(base.__module__.startswith("torch.nn.") for base in bases) and not layer._modules


@functools.lru_cache(maxsize=512)
def _lines(kind: type) -> tuple[Line, ...]:
    """The lines of the methods of a class that make a layer and set it."""
    classes = [k for k in kind.__mro__ if issubclass(k, nn.Module) and not k.__module__.startswith("torch.")]
    return tuple(line for k in classes for name, f in vars(k).items() if isinstance(f, FunctionType) for line in _made(k, name))


def _made(kind: type, method: str) -> Iterator[Line]:
    code = inspect.unwrap(vars(kind)[method]).__code__
    if not code.co_argcount:
        return
    tree = tree_of(kind, method)
    for node in ast.walk(tree) if tree is not None else ():
        if (
            isinstance(node, ast.Assign)
            and len(node.targets) == 1
            and isinstance(node.targets[0], (ast.Attribute, ast.Subscript))
        ):
            value = node.value
            for call in (value.body, value.orelse) if isinstance(value, ast.IfExp) else (value,):
                if isinstance(call, ast.Call):
                    yield code.co_varnames[0], node.targets[0], call


def _at(place: ast.expr, own: str, module: nn.Module) -> Any:
    """What stands at ``self.head.layers[-1]``; None where nothing does, or where more than looking would be needed."""
    if isinstance(place, ast.Name):
        return module if place.id == own else None
    if isinstance(place, ast.Attribute):
        holder = _at(place.value, own, module)
        return holder._modules.get(place.attr) if isinstance(holder, nn.Module) else None
    if isinstance(place, ast.Subscript):
        holder, key = _at(place.value, own, module), _constant(place.slice)
        if isinstance(holder, (nn.Sequential, nn.ModuleList)) and type(key) is int and -len(holder) <= key < len(holder):
            return holder[key]
        return holder._modules.get(key) if isinstance(holder, nn.ModuleDict) and isinstance(key, str) else None
    return None


def _constant(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None


def _arguments(call: ast.Call, kind: type) -> Iterator[tuple[str, ast.expr]]:
    """The arguments of a call that makes a layer, by the names of the parameters of its class."""
    try:
        names = list(inspect.signature(kind).parameters)
    except (TypeError, ValueError):
        names = []
    for name, argument in zip(names, call.args, strict=False):
        if isinstance(argument, ast.Starred):
            return
        yield name, argument
    yield from ((k.arg, k.value) for k in call.keywords if k.arg is not None)


def _slot(argument: ast.expr, own: str, module: nn.Module) -> Slot | None:
    """The number that an expression reads: ``self.width``, ``self.widths[-1]``."""
    path: list[Any] = []
    while isinstance(argument, ast.Subscript):
        path.insert(0, _constant(argument.slice))
        argument = argument.value
    if not (isinstance(argument, ast.Attribute) and isinstance(argument.value, ast.Name) and argument.value.id == own):
        return None
    value = module.__dict__.get(argument.attr)
    for number, key in enumerate(path):
        if isinstance(value, (list, tuple)) and type(key) is int and -len(value) <= key < len(value):
            path[number] = key % len(value)
        elif not isinstance(value, dict) or key not in value:
            return None
        value = value[path[number]]
    return Slot("", argument.attr, tuple(path)) if type(value) is int else None
